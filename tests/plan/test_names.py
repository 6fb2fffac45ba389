"""Where in the model an instruction comes from, by the name that jax gave it."""

import pytest

from bigmodel.plan import names

STEP = "jit(train_step)"
BODY = "Decoder.run_layers/while/body/closed_call"
AGAIN = f"transpose(jvp(Decoder))/{BODY}/checkpoint/rematted_computation/Block"


@pytest.mark.parametrize(
    ("op_name", "layer", "turn"),
    [
        (
            f"{STEP}/jvp(Decoder)/{BODY}/Block/feedforward/gate/BTD,DF->BTF/dot_general",
            *("layers/feedforward/gate", "forward"),
        ),
        (f"{STEP}/{AGAIN}/attention/out/BTHC,HCD->BTD/dot", "layers/attention/out", "recomputed"),
        (
            f"{STEP}/transpose(jvp(Decoder))/{BODY}/checkpoint/Block/attention/"
            "attention.project/query/BTD,DHC->BTHC/dot_general",
            *("layers/attention/query", "backward"),
        ),
        (
            f"{STEP}/jvp(Decoder)/{BODY}/Block/attention/shard_map/vmap(splash_mha)/"
            "pairs_10_20_fused/pallas_call",
            *("layers/attention", "forward"),
        ),
        (
            f"{STEP}/jvp(Decoder)/{BODY}/Block/experts/shard_map/rows_32/ragged_dot_general/"
            "ragged-dot-none",
            *("layers/experts", "forward"),
        ),
        (f"{STEP}/jvp(Decoder)/Decoder.embed/embed/jit(_take)/gather", "embed", "forward"),
        (f"{STEP}/jvp(Decoder)/final_norm/reduce_sum", "final_norm", "forward"),
        (f"{STEP}/jvp(Decoder)/Decoder.angles/mul", "", "forward"),
        (f"{STEP}/jvp(loss)/while/body/jvp(...D,VD->...V)/dot_general", "loss", "forward"),
        (f"{STEP}/jvp(loss)/while/body/transpose(jvp(...D,VD->...V))/dot", "loss", "backward"),
        (f"{STEP}/transpose(jvp(loss))/while/body/mul", "loss", "backward"),
        (f"{STEP}/optimizer/reduce_sum", "optimizer", "update"),
        (f"{STEP}/jvp(eval_jaxpr)/eval_jaxpr/add", "", "forward"),
        ("state.params['embed']['table']", "params/embed/table", "forward"),
        ("state.opt_state[1][0].mu['layers']['norm']", "opt_state/1/0/mu/layers/norm", "forward"),
        (r"batch[\'tokens\']", "batch/tokens", "forward"),
        ("state.step", "step", "forward"),
        ("params['head']['kernel']", "params/head/kernel", "forward"),
        ("", "", "forward"),
    ],
)
def test_a_name_tells_layer_and_pass(op_name, layer, turn):
    assert names.layer(op_name) == layer
    assert names.turn(op_name) == turn

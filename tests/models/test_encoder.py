"""Laws of the encoder: one layer in NumPy, packing, positions, and the published parameters."""

import math
import pathlib

import jax
import numpy as np
import pytest
from flax.core import meta

from bigmodel import config, recipe, trees
from bigmodel.models import encoder
from tests.models.families import make, params, texts

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"

# Hugging Face transformers, `num_parameters()`: BertForPreTraining (bert-base-uncased and
# bert-large-uncased, the decoder tied), RobertaForMaskedLM, BertForSequenceClassification with two
# labels, BertForTokenClassification (bert-base-cased) with nine.
PUBLISHED = {
    "bert.py:base": 110_106_428,
    "bert.py:large": 336_226_108,
    "bert.py:roberta-base": 124_697_433,
    "bert.py:roberta-large": 355_412_057,
    "bert_classify.py:base": 109_483_778,
    "bert_classify.py:large": 335_143_938,
    "bert_label.py:base": 107_726_601,
}
# BertModel and RobertaModel: with the pooler, without heads.
BARE = {
    "bert.py:base": 109_482_240,
    "bert.py:large": 335_141_888,
    "bert.py:roberta-base": 124_645_632,
    "bert.py:roberta-large": 355_359_744,
}


def count(name, **chosen):
    fields = config.resolve(
        recipe.resolve(config.load(f"{CONFIGS}/{name}")).config.model, encoder.Encoder, "model"
    )
    model = encoder.make(**fields | chosen)
    return trees.count(meta.unbox(jax.eval_shape(model.init, jax.random.key(0), model.example)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_size_has_the_published_parameters(name):
    assert count(name) == PUBLISHED[name]


@pytest.mark.parametrize("name", BARE)
def test_without_heads_it_is_the_bare_model(name):
    assert count(name, masked_head=False, next_sentence=False, pooler=True) == BARE[name]


def layer_norm(x, of, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * of["scale"] + of["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def stated(params, batch, epsilon):
    """BERT in float64, as Devlin et al. 2019 and Vaswani et al. 2017 write it: all its outputs."""
    p = jax.tree.map(np.float64, params)
    x = p["embed"]["table"][batch["tokens"]] + p["positions"]["table"][batch["positions"]]
    x = layer_norm(x + p["token_types"]["table"][batch["token_types"]], p["embed_norm"], epsilon)
    segments = batch["segments"]
    sees = segments[:, None, :, None] == segments[:, None, None, :]
    for number in range(2):
        layer = jax.tree.map(lambda leaf, n=number: leaf[n], p["layers"])
        of = layer["attention"]
        q, k, v = (
            np.einsum("BTD,DHC->BHTC", x, of[name]["kernel"]) + of[name]["bias"][:, None]
            for name in ("query", "key", "value")
        )
        scores = np.where(sees, q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]), -np.inf)
        seen = np.exp(scores - scores.max(-1, keepdims=True))
        seen = seen / seen.sum(-1, keepdims=True) @ v
        added = np.einsum("BHTC,HCD->BTD", seen, of["out"]["kernel"]) + of["out"]["bias"]
        x = layer_norm(x + added, layer["attention_norm"], epsilon)
        up, down = layer["feedforward"]["up"], layer["feedforward"]["down"]
        hidden = gelu(x @ up["kernel"] + up["bias"])
        x = layer_norm(
            x + hidden @ down["kernel"] + down["bias"], layer["feedforward_norm"], epsilon
        )

    masked = p["masked"]
    told = layer_norm(gelu(x @ masked["kernel"] + masked["bias"]), masked["norm"], epsilon)
    pooled = np.tanh(x[:, 0] @ p["pooler"]["kernel"] + p["pooler"]["bias"])
    return {
        "hidden": x,
        "logits": told @ p["embed"]["table"].T + masked["vocab_bias"],
        "pooled": pooled,
        "sentence_logits": pooled @ p["sentence_head"]["kernel"] + p["sentence_head"]["bias"],
        "class_logits": pooled @ p["class_head"]["kernel"] + p["class_head"]["bias"],
        "token_logits": x @ p["token_head"]["kernel"] + p["token_head"]["bias"],
    }


def test_bert_is_its_formula_in_float64():
    batch = texts(3, 0)
    found = jax.jit(make("bert").apply)(params("bert"), batch)
    found = found | found.pop("embeddings")
    real = batch["segments"] > 0
    for name, wanted in stated(params("bert"), batch, 1e-12).items():
        own = np.asarray(found[name])
        own, wanted = (own[real], wanted[real]) if own.ndim == 3 else (own, wanted)
        np.testing.assert_allclose(own, wanted, rtol=2e-5, atol=2e-5, err_msg=name)


def test_the_mean_that_is_pooled_is_that_of_the_first_document():
    batch = {name: array for name, array in texts(3, 0).items() if name != "token_types"}
    batch["segments"][2] = 0  # a row that only fills up a batch
    model = make("bert", pooling="mean")
    found = jax.jit(model.apply)(params("bert"), batch)
    own = np.asarray(batch["segments"] == 1)[..., None]
    mean = (np.asarray(found["hidden"]) * own).sum(1) / np.maximum(own.sum(1), 1)
    pooler = params("bert")["pooler"]
    wanted = np.tanh(mean @ pooler["kernel"] + pooler["bias"])
    np.testing.assert_allclose(found["embeddings"]["pooled"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_token_sees_what_comes_after_it(name):
    batch = texts(1, 0)
    first = dict(batch, tokens=batch["tokens"].copy())
    first["tokens"][0, 1] += 1
    run = jax.jit(make(name).apply)
    one, other = (np.asarray(run(params(name), b)["hidden"])[0, 0] for b in (batch, first))
    assert np.abs(one - other).max() > 1e-3


def test_positions_of_roberta_begin_after_the_offset():
    batch = {"tokens": np.arange(8, dtype=np.int32)[None]}
    moved = make("roberta", position_offset=0, length=10)
    place = {"positions": np.arange(8, dtype=np.int32)[None] + 2}
    one = jax.jit(make("roberta").apply)(params("roberta"), batch)["hidden"]
    other = jax.jit(moved.apply)(params("roberta"), batch | place)["hidden"]
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_one_token_type_is_that_of_all_tokens():
    batch = texts(1, 0)
    types = dict(batch, token_types=np.ones((1, 8), np.int32))
    run = jax.jit(make("roberta").apply)
    one, other = (run(params("roberta"), b)["hidden"] for b in (batch, types))
    np.testing.assert_array_equal(one, other)
    assert np.isfinite(one).all()


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(norm_placement="both"), "model.norm_placement = 'both': allowed are post, pre."),
        (dict(norm_placement="pos"), 'Did you mean "post"'),
        (dict(pooling="last"), "model.pooling = 'last': allowed are first, mean."),
        (dict(pooler=False, classes=2), "model.classes = 2 is told from the pooled vector"),
        (dict(pooler=False, next_sentence=True), "model.next_sentence = True is told"),
        (dict(token_types=-1), "model.token_types = -1: at least 0."),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, words):
    with pytest.raises(config.InputError, match="model") as refused:
        encoder.make(**fields)
    assert words in str(refused.value)

"""BERT and RoBERTa: encoders with their heads of pretraining, or of classes."""

from collections.abc import Callable
from typing import Any

from bigmodel.convert.architecture import Architecture, Fields
from bigmodel.convert.fields import Foreign, classes, named
from bigmodel.convert.rows import LINEAR, OUT, Row, dense, norm

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}
# (of ours, below "encoder.layer.{layer}.", its form)
PRODUCTS = (
    ("attention/query", "attention.self.query", LINEAR),
    ("attention/key", "attention.self.key", LINEAR),
    ("attention/value", "attention.self.value", LINEAR),
    ("attention/out", "attention.output.dense", OUT),
    ("feedforward/up", "intermediate.dense", LINEAR),
    ("feedforward/down", "output.dense", LINEAR),
)
# What the first config files said of the product after the first token, which has no choices.
POOLER = (
    *("pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
    *("pooler_size_per_head", "pooler_type"),
)
# A masked model's file may hold all that was trained with it, as bert-base-uncased's does.
DROPPED = r"(^|\.)pooler\.dense\.|^cls\.seq_relationship\."
# Heads: a field that asks for it -> (of ours, of theirs).
BERT_HEADS = {
    "next_sentence": ("sentence_head", "cls.seq_relationship"),
    "classes": ("class_head", "classifier"),
    "token_classes": ("token_head", "classifier"),
}


def rows(fields: Fields, name: str = "bert") -> list[Row]:
    """The table of names of both, below a prefix."""
    own, layer = f"{name}.embeddings.", f"{name}.encoder.layer.{{layer}}."
    found = [
        Row("embed/table", f"{own}word_embeddings.weight"),
        Row("positions/table", f"{own}position_embeddings.weight"),
        *norm("embed_norm", f"{own}LayerNorm"),
    ]
    if fields["token_types"]:
        found.append(Row("token_types/table", f"{own}token_type_embeddings.weight"))
    for ours, theirs, form in PRODUCTS:
        found += dense(f"layers/{ours}", f"{layer}{theirs}", form)
    found += norm("layers/attention_norm", f"{layer}attention.output.LayerNorm")
    found += norm("layers/feedforward_norm", f"{layer}output.LayerNorm")
    if fields["pooler"]:
        found += dense("pooler", f"{name}.pooler.dense")
    for field, (ours, theirs) in BERT_HEADS.items():
        found += dense(ours, theirs) if fields[field] else []
    if fields["masked_head"]:
        found += masked(*MASKED[name])
    return found


# (product, norm, bias of the vocabulary)
MASKED = {
    "bert": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
    ),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
}


def masked(product: str, own_norm: str, bias: str) -> list[Row]:
    """What predicts masked tokens."""
    return [
        *dense("masked", product),
        *norm("masked/norm", own_norm),
        Row("masked/vocab_bias", bias),
    ]


def roberta_rows(fields: Fields) -> list[Row]:
    return rows(fields, "roberta")


def fields(theirs: Foreign, **heads: Any) -> dict[str, Any]:
    """Our fields, of their config; dropout is a matter of training, and none is taken over."""
    theirs.skip("attention_probs_dropout_prob", "hidden_dropout_prob", "classifier_dropout")
    theirs.skip(*POOLER)
    theirs.must("directionality", ["bidi"], "bidi")
    theirs.must("position_embedding_type", ["absolute"], "absolute")
    theirs.must("tie_word_embeddings", [True], True)
    return {
        "vocab": theirs.take("vocab_size"),
        "width": theirs.take("hidden_size"),
        "layers": theirs.take("num_hidden_layers"),
        "heads": theirs.take("num_attention_heads"),
        "hidden": theirs.take("intermediate_size"),
        "length": theirs.take("max_position_embeddings"),
        "token_types": theirs.take("type_vocab_size", 2),
        "norm_epsilon": theirs.take("layer_norm_eps", 1e-12),
        "feedforward": ACTIVATIONS[theirs.must("hidden_act", ACTIVATIONS, "gelu")],
        "dropout": 0.0,
        **heads,
    }


def config(fields: Fields) -> dict[str, Any]:
    """And back."""
    told_apart = fields["classes"] or fields["token_classes"]
    labels = {"num_labels": told_apart} if told_apart else {}
    return labels | {
        "vocab_size": fields["vocab"],
        "hidden_size": fields["width"],
        "num_hidden_layers": fields["layers"],
        "num_attention_heads": fields["heads"],
        "intermediate_size": fields["hidden"] or 4 * fields["width"],
        "max_position_embeddings": fields["length"] + fields["position_offset"],
        "type_vocab_size": fields["token_types"],
        "layer_norm_eps": fields["norm_epsilon"],
        "hidden_act": named(ACTIVATIONS, fields["feedforward"]),
        "tie_word_embeddings": True,
    }


def of_roberta(theirs: Foreign, **heads: Any) -> dict[str, Any]:
    """Positions are numbered on from the id of padding."""
    offset = theirs.take("pad_token_id", 1) + 1
    found = fields(theirs, pooler=False, position_offset=offset, **heads)
    return found | {"length": found["length"] - offset}


def roberta_config(fields: Fields) -> dict[str, Any]:
    return config(fields) | {"pad_token_id": fields["position_offset"] - 1}


def masked_bert(theirs: Foreign, **heads: Any) -> dict[str, Any]:
    """With what predicts masked tokens, whose activation is that of the layers."""
    found = fields(theirs, **heads)
    return found | {"masked_activation": found["feedforward"]}


def bert(
    make: Callable[[Foreign], dict[str, Any]], objective: str, data: str, *, bare: bool = False
) -> Architecture:
    return Architecture(
        *("bert", "encoder", make, config, rows, objective, data),
        prefix="bert.",
        bare=bare,
        unread=r"position_ids$",
        dropped=rf"{DROPPED}|^cls\.predictions\.(decoder\.)?bias$",
        renamed=(
            (r"LayerNorm\.weight$", "LayerNorm.gamma"),
            (r"LayerNorm\.bias$", "LayerNorm.beta"),
        ),
    )


MASKED_TEXT = ("masked_token", "masked_text")
ARCHITECTURES = {
    "BertForPreTraining": bert(lambda t: masked_bert(t, next_sentence=True), *MASKED_TEXT),
    "BertForMaskedLM": bert(lambda t: masked_bert(t, pooler=False), *MASKED_TEXT),
    "BertForSequenceClassification": bert(
        lambda t: fields(t, masked_head=False, classes=classes(t)), "classify", "labelled_text"
    ),
    "BertForTokenClassification": bert(
        lambda t: fields(t, masked_head=False, pooler=False, token_classes=classes(t)),
        *("label_tokens", "labelled_tokens"),
    ),
    "BertModel": bert(lambda t: fields(t, masked_head=False), *MASKED_TEXT, bare=True),
    "RobertaForMaskedLM": Architecture(
        *("roberta", "encoder", of_roberta, roberta_config, roberta_rows, *MASKED_TEXT),
        prefix="roberta.",
        unread=r"position_ids$",
        dropped=rf"{DROPPED}|^lm_head\.decoder\.bias$",
    ),
}

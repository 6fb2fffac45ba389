"""Kinds of data: what opens the rows of each, by the name that a config's `data.kind` gives.

An opener takes `source` and `split`, and its other arguments are the config's fields of `data`,
but for RUNTIME, which the run gives. What it returns keeps `pipeline.Rows`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from bigmodel import config
from bigmodel.data import (
    chats,
    image_text,
    images,
    interactions,
    labelled_text,
    labelled_tokens,
    latents,
    masked_text,
    pairs,
    prefix_text,
    prompted_images,
    prompted_text,
    prompts,
    spans,
    speech,
    text,
)

KINDS: dict[str, Callable] = {
    "chats": chats.open_rows,
    "image_text": image_text.open_rows,
    "images": images.open_rows,
    "interactions": interactions.open_rows,
    "labelled_text": labelled_text.open_rows,
    "labelled_tokens": labelled_tokens.open_rows,
    "latents": latents.open_rows,
    "masked_text": masked_text.open_rows,
    "pairs": pairs.open_rows,
    "prefix_text": prefix_text.open_rows,
    "prompted_images": prompted_images.open_rows,
    "prompted_text": prompted_text.open_rows,
    "spans": spans.open_rows,
    "speech": speech.open_rows,
    "text": text.open_rows,
}
# kind -> (fields of a config's model and data) -> {name: (shape of a row, dtype)}
SHAPES: dict[str, Callable] = {
    "chats": text.row_shapes,
    "image_text": image_text.row_shapes,
    "images": images.row_shapes,
    "interactions": interactions.row_shapes,
    "labelled_text": labelled_text.row_shapes,
    "labelled_tokens": text.row_shapes,
    "latents": latents.row_shapes,
    "masked_text": masked_text.row_shapes,
    "pairs": pairs.row_shapes,
    "prefix_text": prefix_text.row_shapes,
    "prompted_images": prompted_images.row_shapes,
    "prompted_text": prompts.row_shapes,
    "spans": pairs.row_shapes,
    "speech": speech.row_shapes,
    "text": text.row_shapes,
}
# kind -> (its fields, ids of its tokenizer) -> ids in all, where it has more than the tokenizer
IDS: dict[str, Callable] = {"spans": spans.ids}
# kind -> (its fields, the user's own sources) -> texts to train a tokenizer on, besides "text"
TEXTS: dict[str, Callable] = {
    "labelled_text": labelled_text.texts,
    "labelled_tokens": labelled_tokens.texts,
    "pairs": pairs.texts,
}
RUNTIME = ("seed", "progress", "extensions", "own_filters", "training")


def fields(opener: Callable) -> dict[str, Any]:
    """The opener's fields of a config and their defaults."""
    found = {"source": inspect.signature(opener).parameters["source"].default}
    schema = config.schema(opener)
    return found | {name: default for name, (_, default) in schema.items() if name not in RUNTIME}


def row_shapes(model: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, tuple]:
    """Arrays of a row: name -> (shape, dtype); {} of a kind that tells only with its rows.

    Args:
        model: fields of a config's model.
        data: fields of its data, `kind` with them.
    """
    kind = data["kind"]
    return SHAPES[kind]({**model, **data}) if kind in SHAPES else {}


def open_rows(opener: Callable, given: Mapping[str, Any], **runtime: Any) -> Any:
    """The rows of a config's `data`, or of some of its fields said otherwise.

    Args:
        opener: of KINDS, or the user's own.
        given: its fields.
        **runtime: of RUNTIME; an opener may do without.
    """
    wanted = inspect.signature(opener).parameters
    return opener(**given, **{name: value for name, value in runtime.items() if name in wanted})

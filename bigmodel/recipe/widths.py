"""A model against that of another width whose rates it has: the config's section `mup`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from bigmodel import config, models, trees
from bigmodel.models.handle import Model
from bigmodel.optimizers import mup
from bigmodel.recipe import model_checks
from bigmodel.sharding import rules


@dataclasses.dataclass(frozen=True)
class Widths:
    """What a base model says of a run.

    Attributes:
        model: with first weights of table 3.
        rates: path -> factor of the learning rate.
    """

    model: Model
    rates: Mapping[str, float]


def make(
    values: Any,
    table: Mapping[str, Callable],
    extensions: Mapping,
    model: Model,
    fields: Mapping[str, Any],
    boxed: Any,
) -> Widths:
    """Holds the model against its base, where the config names one.

    Args:
        values: the config.
        table: name -> builder of models, the config file's own too.
        extensions: the config file's own builders.
        model, fields, boxed: the run's, its fields, and its abstract parameters in boxes.

    Raises:
        InputError: a base of another kind, or a model that no width carries over to.
    """
    if not values.mup:
        return Widths(model, {})
    if values.lora.rank:
        raise config.InputError("mup: adapters have a rank and no width; allowed is lora.rank = 0.")
    if fields.get("embed_scale"):
        raise config.InputError(
            "mup: embeddings times the root of the width would move further the wider a model is; "
            "allowed is model.embed_scale = False."
        )
    given, name = values.mup.to_dict(), values.model.name
    for field in given:
        config.known(f"mup: the model's field {field!r}", field, fields)
    base_fields = dict(fields) | config.resolve(values.mup, table[name], "mup")
    own = name in extensions.get("model", {})
    if not own:
        model_checks.model(name, base_fields, length=0)
    base = (table[name] if own else models.FAMILIES[name][1])(**base_fields)
    narrow = jax.eval_shape(base.init, jax.random.key(0), base.example)
    boxes, narrow = (trees.flatten(tree, is_leaf=rules.is_box) for tree in (boxed, narrow))
    if boxes.keys() != narrow.keys():
        other = sorted(boxes.keys() ^ narrow.keys())[0]
        raise config.InputError(f"mup: only one of the model and its base has {other}.")
    grown = {
        path: mup.growth(path, tuple(box.names), box.value.shape, narrow[path].value.shape)
        for path, box in boxes.items()
    }
    check_scores(fields, given, boxes, narrow)
    check_logits(model, boxed, boxes, narrow)

    def init(rng: jax.Array, batch: Any) -> Any:
        return mup.first_weights(
            lambda: model.init(rng, batch),
            lambda: base.init(rng, base.example),
            grown,
            rules.is_box,
        )

    rates = mup.rates(grown, values.optimizer.name)
    return Widths(dataclasses.replace(model, init=init), rates)


def check_scores(
    fields: Mapping[str, Any], given: Mapping[str, Any], boxes: Mapping, narrow: Mapping
) -> None:
    """A head that grows wants its scores over C, which only some families can be told."""
    for path, box in boxes.items():
        for axis, n, base in zip(box.names, box.value.shape, narrow[path].value.shape, strict=True):
            if axis == "head_dim" and n != base:
                wanted = (given.get("attention_scale") or base**-0.5) * base / n
                if abs(fields.get("attention_scale", 0.0) / wanted - 1) < 1e-3:
                    continue
                scale = f"model.attention_scale = {wanted:.6g}"
                cure = f" or {scale}" if "attention_scale" in fields else ""
                raise config.InputError(
                    f"mup: heads are {n} wide, of the base model {base}; scores over its root "
                    f"would grow. Allowed are as many heads more as it is wider{cure}."
                )


def check_logits(model: Model, boxed: Any, boxes: Mapping, narrow: Mapping) -> None:
    """One table cannot have the first weights and the rates of both an embedding and a head."""
    plain = jax.tree.map(lambda box: box.value, boxed, is_leaf=rules.is_box)
    try:
        head = trees.flatten(jax.eval_shape(model.head, plain))
    except config.InputError:  # it gives no tokens
        return
    for path in head:
        if path.endswith("table") and boxes[path].value.shape != narrow[path].value.shape:
            raise config.InputError(
                f"mup: logits come of {path}, an embedding: its rate cannot be that of a head; "
                "allowed are models with a head of their own, as by model.tied = False."
            )

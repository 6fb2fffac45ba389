"""What a run of two towers tells: an image's class among texts, and the pairs of a whole split."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from bigmodel import config, scores, trees
from bigmodel import recipe as recipes
from bigmodel.data import image_text, inputs
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules

RANKS = (1, 5, 10)


def matches(recipe: recipes.Recipe) -> bool:
    """Whether the model holds images against texts."""
    if not {"images", "tokens"} <= set(recipe.example):
        return False
    params = nn.unbox(recipe.boxed_params)
    return "logit_scale" in jax.eval_shape(recipe.model.apply, params, recipe.example)


def classify(
    recipe: recipes.Recipe,
    params: Any,
    images: np.ndarray,
    classes: Sequence[Sequence[str]],
) -> np.ndarray:
    """How likely each image is of each class.  [B, H, W, C] -> float64 [B, N]

    Radford et al. 2021 (arXiv:2103.00020), section 3.1.2: softmax over the classes' texts; with a
    bias (SigLIP) each class is told for itself, by a sigmoid.

    Args:
        recipe: of the run.
        params: on the recipe's mesh.
        images: as rows of the run's data are in evaluation.
        classes: the texts of each; several are averaged (`scores.class_vectors`).
    """
    texts = [text for of_class in classes for text in of_class]
    tokens = image_text.text_arrays(texts, recipe.tokenizer, recipe.config.data)
    shown = outputs(recipe, params, {"images": images})
    read = outputs(recipe, params, tokens)
    ends = np.cumsum([len(of_class) for of_class in classes])
    vectors = scores.class_vectors(np.split(read["embeddings"]["text"], ends[:-1]))
    logits = scores.unit(shown["embeddings"]["image"]) @ vectors.T * float(shown["logit_scale"])
    if "logit_bias" in shown:
        return 1 / (1 + np.exp(-logits - float(shown["logit_bias"])))
    likely = np.exp(logits - logits.max(-1, keepdims=True))
    return likely / likely.sum(-1, keepdims=True)


def outputs(recipe: recipes.Recipe, params: Any, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The model's outputs of a batch on the host; rows of zeros fill it up for the mesh."""
    B = len(next(iter(batch.values())))
    parts = rules.parts(recipe.mesh, dict(recipe.rules)["batch"])
    more = -B % parts
    padded = {n: np.concatenate([x, np.repeat(x[-1:], more, 0)]) for n, x in batch.items()}
    with meshes.use(recipe.mesh, recipe.rules):
        found = trees.on_host(jax.jit(recipe.model.apply)(params, padded))
    embeddings = {side: vectors[:B] for side, vectors in found["embeddings"].items()}
    return found | {"embeddings": embeddings}


def told(
    recipe: recipes.Recipe,
    params: Any,
    given: Mapping[str, Sequence[str]],
    texts: Sequence[str],
    *,
    best: int,
) -> list[list[str]]:
    """For each image the likeliest texts, each behind its probability.

    Args:
        recipe, params: see `classify`.
        given: {"image": paths}.
        texts: a class each.
        best: how many are told.
    """
    if set(given) != {"image"} or not texts:
        raise config.InputError(
            "this model holds images against texts: it wants --input image=FILE (of an image, or "
            "of paths, one a line), and the texts by --prompts FILE, one a line."
        )
    images = inputs.image(given["image"], recipe.tokenizer, recipe.config.data)["images"]
    likely = classify(recipe, params, images, [[text] for text in texts])
    order = np.argsort(-likely, axis=1, kind="stable")[:, :best]
    return [
        [f"{likely[row, n]:.3f} {texts[n]}" for n in of_image] for row, of_image in enumerate(order)
    ]


def retrieval(
    recipe: recipes.Recipe, params: Any, evaluation: recipes.Evaluation
) -> dict[str, float]:
    """`recalls` of a whole split; {} of other models."""
    return recalls(*vectors(recipe, params, evaluation)) if matches(recipe) else {}


def recalls(image: np.ndarray, text: np.ndarray, ranks: Sequence[int] = RANKS) -> dict[str, float]:
    """Recall of texts by images and of images by texts.  [N, J], [N, J]

    A text that says the same as an image's own is as good as that (`scores.recall`). There is none
    at a rank that is more than N.
    """
    own = np.arange(len(image))
    sides = {"image_to_text": (image, text), "text_to_image": (text, image)}
    return {
        f"{name}_recall_{at}": scores.recall(queries, items, own, at=at)
        for name, (queries, items) in sides.items()
        for at in ranks
        if at <= len(own)
    }


def vectors(
    recipe: recipes.Recipe, params: Any, evaluation: recipes.Evaluation
) -> tuple[np.ndarray, np.ndarray]:
    """Of the images and of the texts of a split, each pair once.  [N, J], [N, J]"""
    embed = jax.jit(lambda params, batch: recipe.model.apply(params, batch)["embeddings"])
    found: dict[str, list[np.ndarray]] = {"image": [], "text": []}
    with meshes.use(recipe.mesh, recipe.rules), recipes.placed(recipe, evaluation) as batches:
        for _, batch in batches:
            of_batch, weights = trees.on_host((embed(params, batch), batch["weights"]))
            for side, parts in found.items():
                parts.append(of_batch[side][weights > 0])
    return np.concatenate(found["image"]), np.concatenate(found["text"])

"""ViT, CLIP and SigLIP against a plain statement of their papers' formulas in float64."""

import math

import jax
import numpy as np
import pytest

from tests.models.families import captioned, images, make, params

ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),  # Hendrycks and Gimpel 2016, section 2
}


def norm(x, of, epsilon):
    """Ba et al. 2016, eq. 4."""
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * of["scale"] + of["bias"]


def attend(x, y, of, sees=True):
    """Vaswani et al. 2017, eq. 1, of a row: what x [T, D] takes from y [S, D]."""
    heads = []
    for h in range(of["query"]["kernel"].shape[1]):
        q, k, v = (
            z @ of[name]["kernel"][:, h] + of[name]["bias"][h]
            for name, z in (("query", x), ("key", y), ("value", y))
        )
        weights = np.exp(np.where(sees, q @ k.T / math.sqrt(q.shape[-1]), -np.inf))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    return np.einsum("HTC,HCD->TD", heads, of["out"]["kernel"]) + of["out"]["bias"]


def feed_forward(x, of, act):
    return (
        act(x @ of["up"]["kernel"] + of["up"]["bias"]) @ of["down"]["kernel"] + of["down"]["bias"]
    )


def layers(x, of, *, act, epsilon, sees=True):
    """Dosovitskiy et al. 2021, eq. 2 and 3, two of them."""
    for n in range(2):
        layer = jax.tree.map(lambda leaf, n=n: leaf[n], of)
        y = norm(x, layer["attention_norm"], epsilon)
        x = x + attend(y, y, layer["attention"], sees)
        y = norm(x, layer["feedforward_norm"], epsilon)
        x = x + feed_forward(y, layer["feedforward"], act)
    return x


def patches(image, of):
    """Eq. 1: each 4 x 4 square's pixels times a kernel, a class token first if there is one."""
    squares = [image[i : i + 4, j : j + 4].ravel() for i in (0, 4) for j in (0, 4)]
    x = np.stack(squares) @ of["patches"]["product"]["kernel"]
    x = x + of["patches"]["product"].get("bias", 0)
    if "class_token" in of:
        x = np.concatenate([of["class_token"][None], x])
    return x + of["positions"]


def pooled(x, of, how, *, act, epsilon):
    if how == "class":  # eq. 4
        return x[0]
    if how == "mean":
        return x.mean(0)
    of = of["pooling"]  # Zhai et al. 2022, section 2.2
    one = attend(of["query"], x, of["attention"])
    return (one + feed_forward(norm(one, of["norm"], epsilon), of["feedforward"], act))[0]


def exact(name):
    return jax.tree.map(np.float64, params(name))


@pytest.mark.parametrize("pooling", ["class", "mean", "attention"])
def test_vit_is_what_its_paper_states(pooling):
    name, batch = f"vit_{pooling}", images(3, 0)
    found, of = jax.jit(make(name).apply)(params(name), batch), exact(f"vit_{pooling}")
    how = dict(act=ACTIVATIONS["gelu"], epsilon=1e-6)
    for row, image in enumerate(batch["images"].astype(np.float64)):
        x = norm(layers(patches(image, of), of["layers"], **how), of["final_norm"], 1e-6)
        vector = pooled(x, of, pooling, **how)
        close(found["embeddings"]["pooled"][row], vector)
        close(found["class_logits"][row], vector @ of["head"]["kernel"] + of["head"]["bias"])


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_two_towers_are_what_their_papers_state(name):
    batch, of = captioned(3, 0), exact(name)
    found = jax.jit(make(name).apply)(params(name), batch)["embeddings"]
    how = dict(act=ACTIVATIONS["quick_gelu"], epsilon=1e-5)
    for row, image in enumerate(batch["images"].astype(np.float64)):
        x = patches(image, of)
        if name == "clip":
            x = norm(x, of["first_norm"], 1e-5)
        x = norm(layers(x, of["image_layers"], **how), of["image_norm"], 1e-5)
        x = pooled(x, of, "class" if name == "clip" else "attention", **how)
        x = x @ of["image_projection"]["kernel"] if name == "clip" else x
        close(found["image"][row], x / np.linalg.norm(x))

        tokens = batch["tokens"][row]
        if name == "clip":  # causal, and read where the text ends
            tokens = tokens[batch["segments"][row] > 0]
        sees = np.tri(len(tokens), dtype=bool) if name == "clip" else True
        y = of["tokens"]["table"][tokens] + of["text_positions"][: len(tokens)]
        y = norm(layers(y, of["text_layers"], sees=sees, **how)[-1], of["text_norm"], 1e-5)
        y = y @ of["text_projection"]["kernel"] + of["text_projection"].get("bias", 0)
        close(found["text"][row], y / np.linalg.norm(y))


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)

"""Images that a run draws out of noise, and their files."""

import io
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bigmodel import config, trees
from bigmodel import recipe as recipes
from bigmodel.decode import flow
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules

NONE = "none"  # the label of no class


def draws(recipe: recipes.Recipe) -> bool:
    """Whether the model tells the way from noise to images."""
    params = nn.unbox(recipe.boxed_params)
    return "velocity" in jax.eval_shape(recipe.model.apply, params, recipe.example)


def check_text(recipe: recipes.Recipe, workdir: str) -> None:
    """Refuses to ask for text where images are drawn."""
    if draws(recipe):
        raise config.InputError(
            f"{workdir} draws images out of noise, and takes no --prompt: it wants --out DIR, "
            f"and --input label=NUMBER for a class."
        )


def draw(
    recipe: recipes.Recipe,
    params: Any,
    labels: Sequence[str] = (),
    *,
    num_return_sequences: int = 1,
    num_inference_steps: int = 50,
    guidance_scale: float = 1.0,
    solver: str = "heun",
    seed: int = 0,
    rows: int = 64,
) -> np.ndarray:
    """Images of classes: [labels * samples, H, W, C], those of the first label first (`pixels`).

    The noise of an image is addressed by (seed, label, sample): the others do not change it.

    Args:
        recipe: of the run.
        params: to draw with, on the recipe's mesh.
        labels: numbers of classes as text, or "none"; () is one "none".
        num_return_sequences: images of each label.
        num_inference_steps: from noise to data.
        guidance_scale: how far to go towards the class, see `decode.flow.guided`; 1: as the model
            says, which takes half the time.
        solver: a name of `decode.flow.SOLVERS`.
        seed: of the noise.
        rows: most images at a time.
    """
    if not draws(recipe):
        raise config.InputError(
            f"model.name = {recipe.config.model.name!r} draws no images; without --out it is asked "
            f"for text."
        )
    numbers = [number_of(label, recipe.fields["classes"]) for label in labels or (NONE,)]
    addresses = [(n, sample) for n in numbers for sample in range(num_return_sequences)]
    parts = rules.parts(recipe.mesh, dict(recipe.rules)["batch"])
    rows = -(-min(rows, len(addresses)) // parts) * parts
    velocity = velocity_of(recipe, guidance_scale)
    shape = recipe.example["images"].shape[1:]
    drawn = []
    with meshes.use(recipe.mesh, recipe.rules):
        for start in range(0, len(addresses), rows):
            some = np.asarray(addresses[start : start + rows], np.int32)
            some = np.pad(some, ((0, rows - len(some)), (0, 0)))  # one program for all
            noise = flow.noise(seed, some, shape)
            given = jax.device_put((noise, some[:, 0]), recipe.batch_sharding)
            noise, classes = given
            how = dict(steps=num_inference_steps, solver=solver)
            images = flow.sample(velocity, (params, classes), noise, **how)
            drawn.append(trees.on_host(images))
    return pixels(np.concatenate(drawn)[: len(addresses)], recipe.config.data)


def labels_of(inputs: Sequence[str] | None) -> list[str]:
    """The classes that the command's `--input label=NUMBER` name."""
    pairs = [given.partition("=") for given in inputs or ()]
    for name, _, label in pairs:
        if name != "label" or not label:
            raise config.InputError(f"--input={name}={label}: images are of --input label=NUMBER.")
    return [label for _, _, label in pairs]


def number_of(label: str, classes: int) -> int:
    """The number of a class, or that of none."""
    if label == NONE:
        return classes
    number = int(label) if label.isdecimal() else -1
    if not 0 <= number < classes:
        allowed = f"0 to {classes - 1}, and {NONE}" if classes else f"only {NONE}"
        raise config.InputError(f"label = {label!r} is no class of this run; allowed: {allowed}.")
    return number


def velocity_of(recipe: recipes.Recipe, guidance_scale: float) -> flow.Velocity:
    """The model's velocity of the pixels, guided towards the class."""
    apply, classes = recipe.model.apply, recipe.fields["classes"]

    def velocity(given, x, t):
        params, labels = given

        def towards(labels):
            batch = {"images": x, "noise_time": t, "labels": labels}
            return apply(params, batch)["velocity"]

        if guidance_scale == 1.0:
            return towards(labels)
        none = towards(jnp.full_like(labels, classes))
        return flow.guided(towards(labels), none, guidance_scale)

    return velocity


def pixels(images: np.ndarray, data: Any) -> np.ndarray:
    """What the data's rows were normalised from.  float [B, H, W, C] -> [B, H, W, C]

    Of images their pixels, uint8; of latents what only the model that made them can turn into
    images, float32.
    """
    if "mean" not in data:
        return images / np.float32(data.scale if "scale" in data else 1)
    mean, std = (np.asarray(value, np.float32) for value in (data.mean, data.std))
    return np.clip((images * std + mean) * 255 + 0.5, 0, 255).astype(np.uint8)


def save(images: np.ndarray, labels: Sequence[str], folder: str, *, seed: int) -> list[str]:
    """Writes what `draw` made of these labels, and says where: PNG files, or .npy of latents."""
    end, encode = ("png", as_png) if images.dtype == np.uint8 else ("npy", np.save)
    place = epath.Path(folder)
    labels = labels or (NONE,)
    files = []
    for n, image in enumerate(images):
        label, sample = divmod(n, len(images) // len(labels))
        encoded = io.BytesIO()
        encode(encoded, image)
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"label-{labels[label]}-seed-{seed}-sample-{sample}.{end}"
        path.write_bytes(encoded.getvalue())
        files.append(str(path))
    return files


def as_png(file: Any, image: np.ndarray) -> None:
    """Writes pixels, uint8 [H, W, 1 or 3]."""
    try:
        from PIL import Image
    except ImportError as error:
        raise config.InputError(
            "PNG files are written by Pillow, which is not here: pip install 'bigmodel[image]'."
        ) from error
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")

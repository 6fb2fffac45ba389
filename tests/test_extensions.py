"""A family, an objective and a kind of data from outside the library, through the unchanged loop.

What stands in CONFIG is all that they cost.
"""

import numpy as np
import pytest

import bigmodel
from bigmodel import config
from tests import runs

CONFIG = '''
"""A mixer of patches (Tolstikhin et al. 2021, arXiv:2105.01601) that learns to rank stripes."""

import dataclasses
import hashlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import bigmodel
from bigmodel.layers.linear import Einsum
from bigmodel.models.handle import Model
from bigmodel.models.vit import patches


class Mixer(nn.Module):
    """float [B, H, W, 1] -> scores float32 [B]"""

    patch: int = 2
    width: int = 16
    layers: int = 2

    @nn.compact
    def __call__(self, batch):
        x = patches(batch["images"], self.patch)
        B, P, E = x.shape
        kinds = dict(dtype=jnp.float32)
        x = Einsum("BPE,ED->BPD", (E, self.width), ("patch", "embed"), **kinds, name="in")(x)
        for layer in range(self.layers):
            across = Einsum("BPD,PQ->BQD", (P, P), ("positions", "norm"), **kinds, name=f"{layer}a")
            along = Einsum(
                "BPD,DF->BPF", (self.width, self.width), ("embed", "mlp"), **kinds, name=f"{layer}b"
            )
            x = x + nn.gelu(across(x))
            x = x + nn.gelu(along(x))
        score = Einsum("BD,DN->BN", (self.width, 1), ("embed", "norm"), **kinds, name="score")
        return {"score": score(x.mean(1))[:, 0]}


def make_mixer(*, patch: int = 2, width: int = 16, layers: int = 2) -> Model:
    mixer = Mixer(patch, width, layers)
    example = {"images": jnp.zeros((1, 8, 8, 1))}
    return Model(
        init=lambda rng, batch: mixer.init(rng, batch)["params"],
        apply=lambda params, batch, rngs=None, cache=None: mixer.apply({"params": params}, batch),
        example=example,
    )


def rank(model, *, margin: float = 1.0):
    """Hinge loss of a score's sign."""

    def objective(params, batch, rng):
        score = model.apply(params, batch)["score"]
        loss = jax.nn.relu(margin - score * batch["sign"]) * batch["weights"]
        right = (score * batch["sign"] > 0) * batch["weights"]
        return loss.sum(), {"correct": right.sum(), "weight": batch["weights"].sum()}

    return objective


@dataclasses.dataclass(frozen=True)
class Stripes:
    """Noise with stripes in it, upright or level, drawn by the row and its epoch."""

    count: int
    seed: int
    weights = (1.0,)
    bytes_per_target = 0.0

    def __len__(self):
        return self.count

    @property
    def parts(self):
        return (self,)

    @property
    def fingerprint(self):
        return hashlib.sha256(f"stripes {self.count} {self.seed}".encode()).hexdigest()

    def describe(self):
        return f"{self.count} stripes"

    def take(self, indices, epochs=None):
        epochs = np.zeros(len(indices)) if epochs is None else epochs
        sign = np.where(np.asarray(indices) % 2, 1.0, -1.0).astype(np.float32)
        images = []
        for index, epoch, s in zip(indices, epochs, sign):
            draw = np.random.default_rng([self.seed, int(epoch), int(index)])
            wave = np.cos(np.arange(8) * np.pi / 2)
            stripes = np.broadcast_to(wave, (8, 8))
            image = (stripes if s > 0 else stripes.T) + draw.normal(size=(8, 8))
            images.append(image[..., None].astype(np.float32))
        return {"images": np.stack(images), "sign": sign, "weights": np.ones_like(sign)}


def open_stripes(source: str = "stripes", *, split: str = "train", count: int = 64, seed: int = 0):
    return Stripes(count, seed + (split != "train"))


EXTENSIONS = {
    "model": {"mixer": make_mixer},
    "objective": {"rank": rank},
    "data": {"stripes": open_stripes},
}


def get_config():
    config = bigmodel.default_config(
        "mixer", objective="rank", data="stripes", extensions=EXTENSIONS
    )
    config.steps, config.batch = 40, 16
    config.schedule.update(peak=1e-2, warmup=5)
    config.evals = dict(validation=dict(split="validation", every=0))
    config.log.update(every=1, tensorboard=False)
    config.checkpoint.every = 20
    return config
'''


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    path = runs.write_config(folder, CONFIG)
    loaded = config.load(str(path), {"mesh.data": 2, "mesh.fsdp": 2, "accumulate": 2})
    return folder / "run", bigmodel.train(loaded, folder / "run")


def test_it_learns_through_the_unchanged_loop_on_a_mesh_and_in_parts(trained):
    folder, last = trained
    losses = list(runs.losses(folder).values())
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert last["validation/accuracy"] > 0.9
    assert last["train/examples_per_second"] > 0


def test_its_workdir_evaluates_by_the_code_that_it_keeps(trained):
    folder, last = trained
    found = bigmodel.evaluate(folder)
    assert found["validation/accuracy"] == pytest.approx(last["validation/accuracy"])
    assert found["validation/targets"] == 64


def test_a_kind_of_data_that_is_not_there_is_named(tmp_path):
    text = CONFIG.replace('data="stripes", ', 'data="strips", ')
    path = runs.write_config(tmp_path, text)
    with pytest.raises(config.InputError, match="stripes"):
        config.load(str(path))


def test_it_writes_no_text_and_says_so(trained):
    with pytest.raises(config.InputError, match="has no tokenizer"):
        bigmodel.generate(trained[0], ["x"])

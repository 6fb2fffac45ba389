"""Runs whose numbers go wrong at steps of their choice, by an objective of the config's own."""

import functools

import bigmodel
from bigmodel import config
from tests import runs

# At those places in training the loss is multiplied: by the batch's own content, not by time.
CONFIG = (
    runs.CONFIG.replace(
        "def get_config():",
        '''import jax.numpy as jnp
from bigmodel import objectives


def faulty(model, *, z_loss: float = 0.0, marks: tuple = (), by: float = 1.0):
    """next_token, times `by` where the first row of a batch adds up to one of `marks`."""
    plain = objectives.next_token(model, z_loss=z_loss)

    def objective(params, batch, rng):
        loss, sums = plain(params, batch, rng)
        first = jnp.where(batch["rows"] == 0, batch["tokens"].sum(1), 0).sum()
        marked = jnp.isin(first, jnp.array(marks or (-1,)))
        return jnp.where(marked, by, 1.0) * loss, sums

    return objective


EXTENSIONS = {"objective": {"faulty": faulty}}


def get_config():''',
    )
    .replace("default_config()", 'default_config(objective="faulty", extensions=EXTENSIONS)')
    .replace("every=15", "every=0")
)


@functools.cache
def mark(batch: int) -> int:
    """What the first row of a batch adds up to."""
    from bigmodel import recipe as recipes

    recipe = recipes.make(config.load_text(CONFIG))
    return int(recipes.train_batches(recipe).host(batch)["tokens"][0].sum())


def overrides(*batches: int, by: float, steps: int = 12) -> list[str]:
    marks = tuple(map(mark, batches))
    return [f"steps={steps}", "checkpoint.every=4", f"objective.marks={marks}", f"objective.by={by}"]


def train(folder, *given: str) -> dict:
    """A run in `folder`, whose config is written beside it."""
    loaded = config.load(str(runs.write_config(folder.parent, CONFIG)), list(given))
    return bigmodel.train(loaded, folder)

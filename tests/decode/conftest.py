"""Quick compiles: they are most of the time of these tests."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compiles():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)

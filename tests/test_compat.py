"""Laws of what a process sets before it runs."""

import jax
import pytest

from bigmodel import compat


@pytest.mark.parametrize(
    ("cache", "place"),
    [
        ("gs://bucket/cache", "gs://bucket/cache/compiled"),
        ("gs://bucket/cache/", "gs://bucket/cache/compiled"),
        ("/tmp/cache", "/tmp/cache/compiled"),
        ("~/cache", "/home/me/cache/compiled"),
        ("", "/home/me/.cache/bigmodel/compiled"),
    ],
)
def test_compiled_programs_are_kept_in_the_cache_wherever_it_is(monkeypatch, cache, place):
    monkeypatch.setenv("BIGMODEL_CACHE", cache)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    told = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: told.update({name: value}))
    compat.use_compilation_cache()
    assert told["jax_compilation_cache_dir"] == place


def test_jaxs_own_variable_goes_before(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.setattr(jax.config, "update", None)
    compat.use_compilation_cache()

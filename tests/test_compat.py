"""Laws of what a process sets before it runs."""

import jax
import pytest
from etils import epath
from jax._src import lru_cache

from bigmodel import compat

pytestmark = pytest.mark.smoke  # on every line of jax: it reaches into it


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


def test_several_processes_on_cpu_have_no_cache_that_one_alone_can_read(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(jax.config, "update", None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    compat.use_compilation_cache()


@pytest.fixture
def programs(tmp_path):
    """jax's cache of programs, in a folder of the test's."""
    compat.write_whole()
    return lru_cache.LRUCache(str(tmp_path), max_size=-1)


def test_an_entry_of_the_cache_is_seen_whole_or_not_at_all(programs, tmp_path, monkeypatch):
    seen = []
    write = type(epath.Path()).write_bytes

    def slowly(path, value):
        write(path, value[:2])
        seen.append(programs.get("key"))
        write(path, value)

    monkeypatch.setattr(type(epath.Path()), "write_bytes", slowly)
    programs.put("key", b"program")
    assert seen == [None]
    assert programs.get("key") == b"program"
    assert [path.name for path in tmp_path.iterdir()] == ["key-cache"]


def test_an_entry_whose_writer_was_killed_is_written_by_the_next(programs, monkeypatch):
    write = type(epath.Path()).write_bytes

    def killed(path, value):
        write(path, value[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(epath.Path()), "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            programs.put("key", b"program")
    assert programs.get("key") is None
    programs.put("key", b"program")
    assert programs.get("key") == b"program"

"""Laws of a snapshot: same files, same hash; a stranger's archive writes nothing outside."""

import gzip
import hashlib
import io
import os
import pathlib
import subprocess
import tarfile
import time

import pytest

from bigmodel import config, launch


@pytest.fixture
def tree(tmp_path):
    """A package as in a git work tree: one file known, one new, one ignored."""
    root = tmp_path / "tree"
    for name, text in {
        "bigmodel/a.py": "a = 1\n",
        "bigmodel/new.py": "",
        "bigmodel/__pycache__/a.pyc": "x",
        "configs/gpt.py": "config",
        "tests/test_a.py": "",
        ".gitignore": "__pycache__/\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "--quiet", root], check=True)
    subprocess.run(["git", "add", "bigmodel/a.py"], cwd=root, check=True)
    return root


def names(snapshot):
    with tarfile.open(fileobj=io.BytesIO(snapshot.content)) as tar:
        return tar.getnames()


def test_the_same_files_give_the_same_bytes_whenever_and_whoever(tree, monkeypatch):
    first = launch.pack(tree / "configs/gpt.py", tree)
    for path in tree.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert launch.pack(tree / "configs/gpt.py", tree) == first
    assert first.name == f"{hashlib.sha256(first.content).hexdigest()}.tar.gz"


def test_one_byte_gives_another_hash(tree):
    first = launch.pack(tree / "configs/gpt.py", tree)
    (tree / "bigmodel/a.py").write_text("a = 2\n")
    assert launch.pack(tree / "configs/gpt.py", tree).hash != first.hash


def test_new_and_changed_files_go_along_and_ignored_ones_do_not(tree):
    found = launch.pack(tree / "configs/gpt.py", tree)
    assert names(found) == ["bigmodel/a.py", "bigmodel/new.py", "configs/gpt.py"]
    (tree / "bigmodel/a.py").unlink()  # git knows it still
    assert "bigmodel/a.py" not in names(launch.pack(tree / "configs/gpt.py", tree))


def test_a_folder_that_git_does_not_know_gives_the_same(tree):
    with_git = launch.pack(tree / "configs/gpt.py", tree)
    (tree / ".git").rename(tree / "no-git")
    assert launch.pack(tree / "configs/gpt.py", tree) == with_git


def test_a_config_file_from_elsewhere_goes_along(tree, tmp_path):
    (tmp_path / "mine.py").write_text("mine")
    found = launch.pack(tmp_path / "mine.py", tree)
    assert found.config == "launched/mine.py"
    assert found.config in names(found)


def test_a_link_does_not_carry_what_it_points_to(tree, tmp_path):
    (tmp_path / "secret.py").write_text("secret")
    (tree / "bigmodel/link.py").symlink_to(tmp_path / "secret.py")
    assert "bigmodel/link.py" not in names(launch.pack(tree / "configs/gpt.py", tree))


def test_unpacking_gives_the_files_back(tree, tmp_path):
    found = launch.pack(tree / "configs/gpt.py", tree)
    (tmp_path / found.name).write_bytes(found.content)
    launch.unpack(tmp_path / found.name, tmp_path / "out")
    for name in names(found):
        assert (tmp_path / "out" / name).read_bytes() == (tree / name).read_bytes()


def hostile(kind, name):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("first.py"))
        tar.addfile(member)
    return whole.getvalue()


def stored(folder, content):
    path = folder / f"{hashlib.sha256(content).hexdigest()}.tar.gz"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (tarfile.REGTYPE, "../escaped.py"),
        (tarfile.REGTYPE, "a/../../escaped.py"),
        (tarfile.REGTYPE, "{outside}/escaped.py"),
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.DIRTYPE, ".."),
    ],
)
def test_a_hostile_archive_is_refused_whole(tmp_path, kind, name):
    inside = tmp_path / "deep/inside"
    path = stored(tmp_path, hostile(kind, name.format(outside=tmp_path)))
    with pytest.raises(config.InputError, match="no plain file within it"):
        launch.unpack(path, inside)
    assert sorted(tmp_path.rglob("*")) == [path]


def test_content_that_is_not_what_the_name_says_is_refused(tree, tmp_path):
    found = launch.pack(tree / "configs/gpt.py", tree)
    (tmp_path / found.name).write_bytes(found.content[:-1] + b"?")
    with pytest.raises(config.InputError, match="named by its SHA-256"):
        launch.unpack(tmp_path / found.name, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"no archive", gzip.compress(b"no archive", mtime=0)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    with pytest.raises(config.InputError, match="no archive of code"):
        launch.unpack(stored(tmp_path, content), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_running_package_is_what_is_packed():
    found = launch.pack(pathlib.Path("configs/gpt.py"))
    wanted = {"bigmodel/__main__.py", "bigmodel/report/plan_page.css", "bigmodel/py.typed"}
    assert {*wanted, "setup.py", "configs/gpt.py"} <= set(names(found))
    assert found.config == "configs/gpt.py"

"""The token cache: the same whoever builds it, whole or not there, and known by its content."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from etils import epath

from bigmodel import config
from bigmodel.data import cache, files, prepare, sources, store, tokenizers, train_tokenizer, worker
from tests.data.corpora import TEXTS

BYTES = tokenizers.load("bytes")


def build(corpus, split="all", tokenizer=BYTES, **options):
    return cache.open_cache(sources.find(f"jsonl:{corpus}", split), split, tokenizer, **options)


def content(tokens):
    """name -> bytes of the files of a cache."""
    return {path.name: path.read_bytes() for path in tokens.folder.glob("*.npy")}


def texts_of(tokens):
    spans = zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    return [BYTES.decode(tokens.tokens[start : stop - 1].tolist()) for start, stop in spans]


def write(folder, texts, name="0.jsonl"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps({"text": text}) for text in texts))


def test_it_holds_each_document_and_its_end(corpus):
    tokens = build(corpus, normalize="none")
    assert sorted(texts_of(tokens)) == sorted(TEXTS)
    assert (tokens.tokens[tokens.offsets[1:] - 1] == BYTES.eos).all()
    assert tokens.bytes == sum(len(text.encode()) for text in TEXTS)
    assert tokens.documents == len(TEXTS)
    assert tokens.tokens.dtype == np.uint16
    assert not tokens.tokens.flags.writeable


def test_texts_are_normalised_and_equal_ones_and_empty_ones_dropped(tmp_path):
    write(tmp_path / "c", ["é", "a", "", "e\u0301", "b", " \n", "a", "é", "A"])
    tokens = build(tmp_path / "c")
    assert texts_of(tokens) == ["é", "a", "b", "A"], "the first of equals stays"
    assert (tokens.documents, tokens.duplicates, tokens.empty) == (4, 3, 2)
    assert tokens.bytes == 5
    kept = build(tmp_path / "c", deduplicate=False, normalize="none")
    assert (kept.documents, kept.duplicates, kept.empty) == (7, 0, 2)


def test_any_number_of_workers_makes_the_same_cache(tmp_path, monkeypatch):
    rng = random.Random(0)
    for name in range(4):
        texts = [f"text {rng.randrange(200)} 你好" for _ in range(100)] + [""]
        write(tmp_path / "c", texts, f"{name}.jsonl")
    monkeypatch.setattr(files, "PART_BYTES", 2000)
    made = [
        build(tmp_path / "c", "train", workers=workers, folder=str(tmp_path / f"cache {workers}"))
        for workers in (1, 3)
    ]
    assert len(sources.find(f"jsonl:{tmp_path / 'c'}", "train").parts) > 5
    assert content(made[0]) == content(made[1])
    assert made[0].content == made[1].content
    assert made[0].duplicates > 100
    assert len(texts_of(made[0])) == len(set(texts_of(made[0]))) == made[0].documents


def test_workers_tell_of_bad_input_as_one_process_does(tmp_path, monkeypatch):
    write(tmp_path / "c", ["fine"] * 50)
    write(tmp_path / "c", [3], "1.jsonl")
    monkeypatch.setattr(files, "PART_BYTES", 100)
    for workers in (1, 2):
        with pytest.raises(config.InputError, match=r"1\.jsonl: the line at byte 0 has no text"):
            build(tmp_path / "c", workers=workers)
    assert not list((tmp_path / "cache").iterdir()), "nothing half is left"


def test_workers_never_import_jax():
    code = "import sys, bigmodel.data.worker as w; assert not {'jax', 'grain'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=python_path())


def test_progress_is_told_to_its_end(corpus, monkeypatch):
    monkeypatch.setattr(files, "PART_BYTES", 500)
    told = []
    build(corpus, progress=lambda *said: told.append(said))
    total = sum(path.stat().st_size for path in corpus.iterdir())
    assert len(told) > 3
    assert all(what == f"jsonl:{corpus} all" and size == total for what, _, size in told)
    assert told[-1][1] == total
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    told.clear()
    build(corpus, progress=lambda *said: told.append(said))
    assert not told, "it is used as it is"


def test_its_key_holds_all_that_shaped_it(corpus, tmp_path):
    words = tmp_path / "t.json"
    train_tokenizer.train(TEXTS, words, size=300)
    folders = {
        build(corpus).folder,
        build(corpus, normalize="NFD").folder,
        build(corpus, deduplicate=False).folder,
        build(corpus, "train").folder,
        build(corpus, tokenizer=tokenizers.load(str(words))).folder,
    }
    os.utime(corpus / "0.jsonl", ns=(1, 1))
    folders.add(build(corpus).folder)
    assert len(folders) == 6
    assert build(corpus).folder in folders


def test_content_is_known_wherever_the_files_lie_and_changes_with_them(corpus, tmp_path):
    first = build(corpus)
    moved = corpus.rename(tmp_path / "elsewhere")
    os.utime(moved / "0.jsonl", ns=(1, 1))
    second = build(moved)
    assert first.folder != second.folder
    assert first.content == second.content
    write(moved, [*TEXTS, "one more"])
    assert build(moved).content != first.content


def test_a_source_that_vanished_is_named_although_its_cache_is_there(corpus, tmp_path):
    build(corpus)
    corpus.rename(tmp_path / "gone")
    with pytest.raises(config.InputError, match=r"corpus.*no file or folder there"):
        build(corpus)


def test_a_split_without_documents_is_refused(tmp_path):
    write(tmp_path / "c", ["only one"])
    for split in ("validation", "test"):
        with pytest.raises(config.InputError, match=f'no documents in the split "{split}".*"all"'):
            build(tmp_path / "c", split)


@pytest.mark.parametrize("harm", ["cut", "grown", "removed", "no meta", "half a meta", "header"])
def test_a_damaged_cache_is_built_again(corpus, harm):
    whole = build(corpus)
    before = content(whole)
    path = whole.folder / "tokens.npy"
    if harm == "cut":
        path.write_bytes(before["tokens.npy"][:-2])
    elif harm == "grown":
        path.write_bytes(before["tokens.npy"] + b"\0\0")
    elif harm == "removed":
        path.unlink()
    elif harm == "no meta":
        (whole.folder / store.META).unlink()
    elif harm == "half a meta":
        (whole.folder / store.META).write_text('{"files": ')
    else:
        path.write_bytes(b"\0" * len(before["tokens.npy"]))
    assert content(build(corpus)) == before
    assert [p.name for p in whole.folder.parent.iterdir()] == [whole.folder.name]


def test_a_folder_appears_with_all_that_is_in_it(tmp_path):
    folder = tmp_path / "made"
    seen = []

    def watch():
        while not folder.exists():
            pass
        seen.append(len(list(folder.iterdir())))

    def write(scratch):
        for number in range(200):
            np.save(scratch / f"{number}.npy", np.arange(9))
        return {}

    watcher = threading.Thread(target=watch)
    watcher.start()
    store.build(folder, write)
    watcher.join()
    assert seen == [201]


SLOW = """
import sys, time
from bigmodel.data import cache, sources, tokenizers

def slow():
    for i in range(int(sys.argv[2])):
        time.sleep(0.001)
        yield f"document {i}" * 1000

slow.fingerprint = "slow"
print("ready", flush=True)
source = sources.Source("slow", "slow", ({"field": "text"},), (0,), "all", slow)
made = cache.open_cache(source, "all", tokenizers.load("bytes"), folder=sys.argv[1])
print(made.documents, made.content)
"""


def python_path():
    return {**os.environ, "PYTHONPATH": str(pathlib.Path(config.__file__).parents[2])}


def start(folder, documents):
    command = [sys.executable, "-c", SLOW, str(folder), str(documents)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=python_path())
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_killed_builds_leave_nothing_and_two_at_once_both_succeed(tmp_path):
    folder = tmp_path / "cache"
    for seed in range(3):
        with start(folder, 4000) as process:
            time.sleep(random.Random(seed).uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
        built = [path for path in folder.glob("*") if ".tmp." not in path.name]
        assert not built, "4000 documents take 4 s at least"
    with start(folder, 400) as first, start(folder, 400) as second:
        # `communicate` would miss what came together with "ready" and was read with it.
        answers = [process.stdout.read() for process in (first, second)]
    assert answers[0] == answers[1]
    assert answers[0].startswith("400 ")
    assert len(list(folder.iterdir())) == 1, "what was killed is swept away"


def test_a_worker_that_dies_is_named_with_its_part(tmp_path, monkeypatch):
    write(tmp_path / "c", ["fine"] * 50)
    monkeypatch.setattr(files, "PART_BYTES", 100)
    dead = [sys.executable, "-c", "raise SystemExit(3)"]
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: start(dead, **options))
    with pytest.raises(RuntimeError, match=r"worker process died on .*c/0\.jsonl"):
        build(tmp_path / "c", workers=2)


def test_ctrl_c_is_answered_by_the_parent_and_not_by_its_workers(tmp_path, monkeypatch):
    write(tmp_path / "c", ["fine"] * 50)
    monkeypatch.setattr(files, "PART_BYTES", 100)
    ask = worker.Worker.ask

    def interrupted(self, task):
        self._process.send_signal(signal.SIGINT)  # as a terminal does to a whole group
        return ask(self, task)

    monkeypatch.setattr(worker.Worker, "ask", interrupted)
    assert build(tmp_path / "c", workers=2, deduplicate=False).documents == 50


def test_a_remote_cache_is_shared_through_its_meta_file(corpus, bucket, tmp_path, monkeypatch):
    remote = epath.Path(bucket) / "caches"
    first = build(corpus, folder=str(remote))
    assert first.folder.is_relative_to(tmp_path / "home")
    before = content(first)
    monkeypatch.setenv("HOME", str(tmp_path / "another machine"))
    monkeypatch.setattr(prepare, "prepare", None)  # nothing is tokenised again
    second = build(corpus, folder=str(remote))
    assert second.folder != first.folder
    assert content(second) == before


def test_a_remote_cache_whose_upload_was_cut_does_not_count(corpus, bucket, tmp_path, monkeypatch):
    remote = epath.Path(bucket) / "caches"
    first = build(corpus, folder=str(remote))
    before = content(first)
    monkeypatch.setenv("HOME", str(tmp_path / "another machine"))
    (remote / first.folder.name / store.META).unlink()
    assert content(build(corpus, folder=str(remote))) == before
    assert store.load_meta(remote / first.folder.name)


def test_an_unknown_normal_form_is_refused(corpus):
    with pytest.raises(config.InputError, match=r'"NFc" is unknown.*Did you mean "NFC"'):
        build(corpus, normalize="NFc")

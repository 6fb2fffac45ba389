"""Filters of text: what they keep by hand, and that all that they drop is counted and known."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest

from bigmodel import __main__, config
from bigmodel.data import cache, files, filters, masked_text, prefix_text, sources, spans, text
from bigmodel.data import tokenizers as named
from tests import runs

PROSE = "The keepers of the old lamp have known that to climb is slow work, and they go. " * 4
GERMAN = "Der Leuchtturm steht seit vielen Jahren am Rand der Stadt und niemand weiß warum. " * 3
FRENCH = "Le phare se trouve depuis longtemps au bord de la ville et personne ne sait pourquoi."


def short(text):
    return len(text) < 100


def write(folder, texts, name="0.jsonl"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return f"jsonl:{folder}"


def build(source, names=(), own=None, **options):
    keeping = filters.find(names, own)
    found = sources.find(source, "all")
    return cache.open_cache(found, "all", named.load("bytes"), keeping=keeping, **options)


def test_what_a_filter_drops_is_not_there_and_counted_by_its_name(tmp_path):
    source = write(tmp_path / "c", [PROSE, GERMAN, "hort", "", PROSE, FRENCH])
    asked = (("long", "english"), {"long": at_least(10)})
    made = build(source, *asked)
    assert made.filtered == {"long": 1, "english": 2}, "the first that drops it counts it"
    assert (made.documents, made.duplicates, made.empty) == (1, 1, 1)
    assert made.dropped() == "1 duplicates, 1 empty, 1 by long, 2 by english"
    again = build(source, *asked)
    assert (again.folder, again.filtered) == (made.folder, made.filtered)


def test_without_filters_the_key_is_that_of_before(tmp_path):
    source = write(tmp_path / "c", ["one", "two"])
    made = build(source)
    found = sources.find(source, "all")
    tokenizer = named.load("bytes")
    assert made.folder == cache.open_cache(found, "all", tokenizer).folder
    known = {"format": 1, "source": [source, found.fingerprint, [None]], "split": "all"}
    known["source"][2] = [part.get("field") for part in found.parts[:1]]
    known |= {"tokenizer": tokenizer.fingerprint, "deduplicate": True}
    known["normalize"] = ["NFC", cache.unicodedata.unidata_version]
    text = json.dumps(known, sort_keys=True)
    assert made.folder.name == cache.hashlib.sha256(text.encode()).hexdigest()[:32]


def at_least(n):
    def long(text):
        return len(text) >= n

    return long


def test_a_filter_is_known_by_its_name_its_text_and_what_it_was_made_with(tmp_path):
    marked = at_least(3)
    marked.fingerprint = "2"
    kept = {
        filters.fingerprint(name, keep)
        for name, keep in [
            ("a", short),
            ("b", short),
            ("a", at_least(3)),
            ("a", at_least(4)),
            ("a", marked),
            ("a", functools.partial(short)),
            ("a", filters.Language("en")),
            ("a", filters.Language("en", 0.9)),
            ("a", filters.Language("de")),
        ]
    }
    assert len(kept) == 9
    assert filters.fingerprint("a", at_least(3)) in kept
    source = write(tmp_path / "c", ["one", "three"])
    folders = [build(source, ("own",), {"own": at_least(n)}).folder for n in (3, 4, 3)]
    assert folders[0] == folders[2] != folders[1]


def test_any_number_of_workers_filters_alike_by_functions_of_the_config_too(tmp_path, monkeypatch):
    for name in range(3):
        texts = [f"{n} {PROSE if n % 3 else GERMAN} {name}" for n in range(0, 40 * (name + 1), 5)]
        write(tmp_path / "c", texts, f"{name}.jsonl")
    monkeypatch.setattr(files, "PART_BYTES", 3000)
    body = "import re\nODD = re.compile('[13579]')\ndef even(text):\n  return not ODD.match(text)\n"
    head = 'EXTENSIONS = {"filter": {"even": even}}\ndef get_config():\n  import bigmodel\n'
    loaded = config.load_text(f"{body}{head}  return bigmodel.default_config()", path="mine.py")
    own = dict(loaded.extensions["filter"])
    made = [
        build(f"jsonl:{tmp_path}/c", ("even", "english"), own, workers=n, folder=f"{tmp_path}/{n}")
        for n in (1, 2)
    ]
    assert made[0].filtered == made[1].filtered == {"even": 29, "english": 7}
    one, two = ([(p.name, p.read_bytes()) for p in m.folder.glob("*.npy")] for m in made)
    assert sorted(one) == sorted(two)


def test_a_filter_that_cannot_go_to_workers_is_refused_and_works_in_one_process(
    tmp_path, monkeypatch
):
    source = write(tmp_path / "c", ["fine"] * 50)
    monkeypatch.setattr(files, "PART_BYTES", 100)
    held = (item for item in [1])  # nothing can pickle a generator
    own = {"own": lambda text: held is not None}
    with pytest.raises(config.InputError, match=r"cannot go to other processes.*workers = 1"):
        build(source, ("own",), own, workers=2)
    assert build(source, ("own",), own, workers=1).documents == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_no_answer_is_refused(tmp_path, monkeypatch, workers):
    source = write(tmp_path / "c", ["fine"] * 50)
    monkeypatch.setattr(files, "PART_BYTES", 100)
    own = {"own": lambda text: len(text)}
    with pytest.raises(config.InputError, match='filter "own" gave 4; allowed are True'):
        build(source, ("own",), own, workers=workers)
    assert build(source, ("own",), {"own": lambda _: np.bool_(True)}).documents == 1


def test_a_source_of_which_nothing_is_kept_says_by_what(tmp_path):
    source = write(tmp_path / "c", [FRENCH, ""])
    with pytest.raises(config.InputError, match=r"0 duplicates, 1 empty, 1 by english"):
        build(source, ("english",))


def test_an_unknown_name_or_language_is_refused_with_the_nearest():
    with pytest.raises(config.InputError, match=r"data\.filters = 'englsh'.*\"english\""):
        filters.find(("englsh",))
    with pytest.raises(config.InputError, match="language = 'xx'"):
        filters.fingerprint("own", filters.Language("xx"))


def test_a_library_that_is_not_there_is_named_with_its_cure():
    with pytest.raises(config.InputError, match=r"nowhere is not installed; pip.*\[clean\]"):
        filters.wanted("nowhere.at_all")


@pytest.mark.parametrize("kind", [text, spans, prefix_text, masked_text])
def test_every_kind_of_plain_text_takes_them(tmp_path, kind):
    source = write(tmp_path / "c", [PROSE, "short", "shorter"])
    own = {"long": at_least(10)}
    options = {"source_length": 60, "length": 60} if kind is spans else {"length": 60}
    rows = kind.open_rows(source, split="all", filters=("long",), own_filters=own, **options)
    assert "1 documents (dropped: 0 duplicates, 0 empty, 2 by long)" in rows.describe()


def test_a_config_names_its_own_and_inspect_tells_of_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path / "cache"))
    source = write(tmp_path / "c", ["one", "two", "three", "x" * 300])
    own = 'EXTENSIONS = {"filter": {"brief": lambda text: len(text) < 200}}\n'
    whole = "default_config(extensions=EXTENSIONS)"
    file = tmp_path / "config.py"
    file.write_text(own + runs.CONFIG.replace("default_config()", whole))
    line = [f"--config={file}", f"--config.data.source={source}"]
    line += ["--config.data.filters=('brief','english')", "--config.evals={}"]
    assert __main__.main(["data", "inspect", *line]) == 2
    assert "no documents" in capsys.readouterr().err, "one word is of no language"
    line[2] = "--config.data.filters=('brief',)"
    assert __main__.main(["data", "inspect", *line]) == 0
    assert "3 (dropped: 0 duplicates, 0 empty, 1 by brief)" in capsys.readouterr().out


# The rules, by hand


WORDS = ["the", "lamp", "of", "stone"] * 25  # 100 words, 16 of 4 letters on average


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" ".join(WORDS), True),
        (" ".join(WORDS[:50]), True),
        (" ".join(WORDS[:49]), False),  # under 50 words
        (" ".join(["the", "of", *["stone"] * 100_000]), False),  # over 100,000
        ("the of " + "ab " * 100, False),  # shorter than 3 letters
        ("the of " + "a" * 11 * 1 + " " + "abcdefghijk" * 1 + " abcdefghijklm" * 60, False),
        (" ".join(WORDS) + " #" * 11, True),  # 0.1 of 111 words: 11 may be
        (" ".join(WORDS) + "#" * 10, True),
        (" ".join(WORDS) + "#" * 11, False),
        (" ".join(WORDS) + "..." * 11, False),
        (" ".join(WORDS) + "…" * 6 + "..." * 5, False),
        ("\n".join("- the lamp of stone" for _ in range(20)), False),  # bullets
        ("\n".join("- the lamp of stone" for _ in range(9)) + "\nlamp of stone" * 5, True),
        ("\n".join(["the lamp of stone now goes out"] * 6 + ["and a lamp and stone…"] * 3), False),
        ("\n".join(["the lamp of stone now goes out"] * 7 + ["and a lamp and stone…"] * 3), True),
        (" ".join(WORDS) + " 1234" * 25, True),  # 80 % of the words have a letter
        (" ".join(WORDS) + " 1234" * 26, False),
        ("the " + "lamp stone " * 40, False),  # one of the words that prose has
        ("The, lamp stone OF. " + "lamp stone " * 40, True),
    ],
)
def test_gopher_keeps_what_reads_like_prose(text, kept):
    assert filters.gopher(text) is kept


FRESH = " ".join(f"w{n}" for n in range(200))
LINES = [FRESH[at : at + 80] for at in range(0, 560, 80)]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (FRESH, True),
        ("\n".join(LINES[:7]) + "\nt" * 4, True),  # 3 of 11 lines stood before
        ("\n".join(LINES[:6]) + "\nt" * 5, False),  # 4 of 11
        (FRESH + "\n" + f"{FRESH[:300]}\n" * 2, False),  # characters of a line
        (FRESH + " " + "so long " * 50, False),  # one pair of words is much of it
        (f"{FRESH} {FRESH[:250]}", False),  # ten words and more that stood before
        (f"{FRESH} {FRESH[:60]}", True),
        ("", True),
    ],
)
def test_unrepetitive_keeps_what_says_things_once(text, kept):
    assert filters.unrepetitive(text) is kept


def test_a_language_is_told_and_its_least_probability_counts():
    assert [filters.Language("en")(t) for t in (PROSE, GERMAN, FRENCH)] == [True, False, False]
    assert [filters.Language("de")(t) for t in (PROSE, GERMAN, FRENCH)] == [False, True, False]
    assert not filters.Language("en", 1.01)(PROSE)


def test_what_needs_no_language_needs_no_library_of_languages():
    code = "import sys, bigmodel.data.text; assert 'py3langid' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

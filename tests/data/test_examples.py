"""What is shown of data: every kind decoded, what is left out counted, one page of itself alone."""

import html.parser
import json
import re

import numpy as np
import pytest

from bigmodel import __main__
from bigmodel.data import (
    examples,
    image_text,
    images,
    inspect,
    interactions,
    labelled_text,
    labelled_tokens,
    masked_text,
    pairs,
    prefix_text,
    spans,
    speech,
    text,
)
from bigmodel.report import data_page, markup
from tests import runs


def lines(folder, *records, name="a.jsonl"):
    (folder / name).write_text("\n".join(map(json.dumps, records)))
    return f"jsonl:{folder}/{name}"


def shown(rows):
    return {
        name: words for example in examples.of(rows, 1) for name, words in example.texts.items()
    }


def test_a_pair_is_shown_as_two_texts_and_what_is_skipped_is_counted(tmp_path):
    some = [{"source": "ein Haus", "target": "a house"}, {"source": "", "target": "x"}]
    rows = pairs.open_rows(
        lines(tmp_path, *some), split="all", source_length=16, length=16, empty="skip"
    )
    assert shown(rows) == {"source": "ein Haus", "target": "a house"}
    assert list(examples.lengths(rows)) == [
        "places, of 1 rows of 16, 50.0% filled",
        "source tokens, of 1 rows of 16, 56.2% filled",
    ]
    said = inspect.describe_arrays(rows)
    assert "cut or left out: 1 skipped" in said
    assert "  row 0, source\n  | ein Haus" in said


def test_texts_of_every_kind_are_decoded_and_what_is_learnt_is_marked(tmp_path):
    source = lines(tmp_path, {"text": "the lamp goes out"}, {"text": "and it comes back [[on]]"})
    how = dict(split="all", length=64)
    [plain] = examples.of(text.open_rows(source, **how), 1)
    assert plain.texts == {"text": "the lamp goes out\n--\nand it comes back [[on]]"}
    assert not plain.marked
    for kind in (prefix_text, masked_text):
        [example] = examples.of(kind.open_rows(source, **how), 1)
        assert example.marked
        assert "the lamp goes out" in re.sub(r"\[\[|\]\]", "", example.texts["text"])
    found = shown(spans.open_rows(source, split="all", source_length=40, length=24))
    assert re.search(r"<\d+>", found["source"])
    assert re.search(r"<\d+>", found["target"])


def test_labels_are_shown_by_name():
    row = shown(labelled_text.open_rows("python_stdlib", split="validation", length=104))
    assert row["label"] in ("argparse", "datetime", "mailbox", "tarfile")
    tokens = shown(labelled_tokens.open_rows("python_stdlib", split="validation", length=128))
    assert set(tokens) == {"text", "labels"}
    word, name = tokens["labels"].split(", ")[0].rsplit(" ", 1)
    assert word in tokens["text"]
    assert name in ("comment", "keyword", "name", "number", "operator", "string")


def test_pictures_sounds_and_histories_are_shown_as_what_they_are(tmp_path):
    rows = images.open_rows("digits", split="train", size=8, channels=1)
    [one, two] = examples.of(rows, 2)
    assert (one.picture.shape, one.picture.min(), one.picture.max()) == ((8, 8), 0, 1)
    assert two.texts == {"label": str(rows.images.labels[-1])}
    captions = image_text.open_rows("digits", split="train", size=8, channels=1, text_length=32)
    assert shown(captions)["text"].startswith("the digit ")
    heard = speech.open_rows("dtmf", split="validation", frames=176, mels=40, rate=8000, length=8)
    [sound] = examples.of(heard, 1)
    assert sound.sound
    assert sound.picture.shape[1] == 40
    assert len(sound.picture) < 176, "padding is not shown"
    assert sound.texts["target"].isdigit()
    (tmp_path / "t.txt").write_text("".join(f"u{u} i{i}\n" for u in range(3) for i in range(6)))
    bought = interactions.open_rows(f"table:{tmp_path}/t.txt", length=8)
    assert shown(bought) == {"items": "i0, i1, i2", "to tell": "i1, i2, i3"}


class Reader(html.parser.HTMLParser):
    """Every element is closed where it was opened, and nothing comes from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.seen.append((tag, values))
        assert "href" not in values
        assert values.get("src", "data:").startswith("data:")
        if tag not in markup.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(page):
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader.seen


def test_a_page_is_whole_and_marks_only_what_is_learnt():
    picture = np.linspace(0, 1, 12).reshape(3, 4)
    example = dict(row=3, texts={"text": "a <b> [[c]]"}, picture=picture, sound=True, marked=True)
    part = dict(name="one & two", lead="x", share=0.25, facts={"rows": "7"})
    part |= dict(lengths={"tokens": ("median 3", [("<= 4", 7)])}, examples=[example])
    plain = dict(example, marked=False, picture=None)
    page = data_page.page("kinds", [part, dict(part, share=0.75, examples=[plain])])
    tags = [tag for tag, _ in read(page)]
    assert (tags.count("img"), tags.count("mark"), tags.count("section")) == (1, 1, 2)
    assert "a &lt;b&gt; <mark>c</mark>" in page
    assert "a &lt;b&gt; [[c]]" in page
    assert "75.0 %" in page


def test_the_command_writes_a_page_of_a_mixture(tmp_path, monkeypatch, capsys):
    one = lines(tmp_path, *({"text": f"lamp {n}"} for n in range(60)))
    two = lines(tmp_path, *({"text": f"stone {n % 9}"} for n in range(60)), name="b.jsonl")
    file, out = runs.write_config(tmp_path), tmp_path / "page.html"
    line = ["data", "inspect", f"--config={file}", f"--report={out}", "--config.evals={}"]
    line += [f"--config.data.mixture={{{one!r}: 3.0, {two!r}: 1.0}}"]
    assert __main__.main(line) == 0
    assert "75.0% of the rows" in capsys.readouterr().out
    page = out.read_text()
    read(page)
    for words in ("lamp 0", "stone 0", "51 duplicates", "packing", "75.0 %", "25.0 %"):
        assert words in page
    line[3] = f"--report={tmp_path}/nowhere/page.html"
    assert __main__.main(line) == 2
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 5, 10])
def test_examples_are_spread_over_all_rows(count):
    chosen = examples.spread(5, count)
    assert list(chosen) == ([0] if count == 1 else [0, 1, 2, 3, 4])

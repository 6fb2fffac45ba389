"""Sounds that are too short for their labels: CTC has no alignment of them."""

import pytest

from bigmodel import config
from bigmodel.data import speech
from tests.data.tones import RATE, TEXTS, folder_of

FIELDS = dict(split="all", frames=40, mels=20, rate=RATE, length=12)


def test_labels_that_no_alignment_has_room_for_are_refused_or_skipped(tmp_path):
    """A sound of 28 frames has 14 vectors; "zzzzzzzz" needs 8, and 7 between them."""
    manifest = folder_of(tmp_path, "rows.jsonl")
    lines = manifest.read_text().splitlines()
    lines[2] = lines[2].replace(TEXTS[2], "z" * 8)
    manifest.write_text("\n".join(lines))

    def rows(**fields):
        return speech.open_rows(f"audio:{manifest}", **{**FIELDS, **fields})

    assert len(rows()) == 3  # a decoder tells what it likes
    with pytest.raises(config.InputError, match=r"2.wav: its 8 labels need 15 vectors .* has 14"):
        rows(end=False)
    skipped = rows(end=False, too_long="skip")
    assert len(skipped) == 2
    assert "1 skipped" in skipped.describe()
    assert len(rows(end=False, pad="silence", frames=60)) == 3

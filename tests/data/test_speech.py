"""Laws of speech as data: what a row is, what is hidden by chance, and what is refused."""

import json
import pathlib
import re
import tarfile

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import (
    kinds,
    log_mel,
    pipeline,
    spec_augment,
    spectrograms,
    speech,
    tokenizers,
)
from tests.data.tones import RATE, TEXTS, folder_of, table, tone, write

BYTES = tokenizers.load("bytes")
FIELDS = dict(split="all", frames=40, mels=20, rate=RATE, length=12)
MEL = log_mel.LogMel(RATE, 20)
EVERY = np.arange(3)
FSDD = pathlib.Path(__file__).parents[3] / "shared/data/fsdd.tar.xz"
MASKS = dict(time_masks=(2, 8), frequency_masks=(2, 5))


def open_rows(source, **fields):
    source = source if isinstance(source, str) else f"audio:{source}"
    return speech.open_rows(source, **{**FIELDS, **fields})


@pytest.fixture
def manifest(tmp_path):
    return folder_of(tmp_path, "rows.jsonl")


def read(rows):
    """The texts that rows say, from their arrays alone."""
    batch = rows.take(np.arange(len(rows)))
    both = zip(batch["targets"], batch["weights"], strict=True)
    return [BYTES.decode(ids[real > 0]) for ids, real in both]


def test_a_row_is_a_sounds_frames_and_its_text_shifted_by_its_start(manifest):
    rows = open_rows(manifest)
    found = rows.take(EVERY)
    for number, length in enumerate((20, 24, 28)):
        heard = found["audio"][number]
        np.testing.assert_array_equal(heard[:length], MEL(tone(number)))
        assert not heard[length:].any()
        assert found["audio_segments"][number].tolist() == [1] * length + [0] * (40 - length)
    one, end = list(b"one"), BYTES.eos
    row = {name: array[0] for name, array in found.items()}
    assert row["targets"].tolist() == [*one, end, *[0] * 8]
    assert row["tokens"].tolist() == [BYTES.bos, *one, *[0] * 8]
    assert row["segments"].tolist() == row["weights"].tolist() == [1] * 4 + [0] * 8
    shapes = {name: (array.shape, str(array.dtype)) for name, array in row.items()}
    assert shapes == kinds.SHAPES["speech"](FIELDS)
    assert read(rows) == TEXTS
    assert rows.describe().endswith("rows.jsonl all: 3 sounds of 0.00 hours")
    assert rows.wants == {"frames": 40, "mels": 20}


def test_labels_without_an_end_are_the_text_alone(manifest):
    rows = open_rows(manifest, end=False, length=8)
    found = rows.take(EVERY)
    assert found["targets"][0].tolist() == [*b"one", *[0] * 5]
    assert found["tokens"][0].tolist() == [BYTES.bos, *b"on", *[0] * 5]
    assert found["weights"].sum(1).tolist() == [len(text.encode()) for text in TEXTS]
    assert rows.bytes_per_target == 1
    with pytest.raises(config.InputError, match="its text has 8 tokens"):
        open_rows(manifest, length=8)


@pytest.mark.parametrize("frames", [28, 29, 30, 31, 40])
def test_silence_is_heard_as_if_it_were_in_the_file(manifest, frames):
    rows = open_rows(manifest, pad="silence", frames=frames)
    found = rows.take(EVERY)
    for number in EVERY:
        samples = tone(number)
        whole = np.pad(samples, (0, frames * MEL.hop - len(samples)))
        np.testing.assert_allclose(found["audio"][number], MEL(whole), atol=1e-6)
    assert (found["audio_segments"] == 1).all()


@pytest.mark.parametrize("pad", ["mask", "silence"])
def test_a_cut_sound_is_heard_as_one_that_ends_there(manifest, pad):
    rows = open_rows(manifest, pad=pad, frames=22, too_long="cut")
    found = rows.take(EVERY)["audio"]
    np.testing.assert_allclose(found[2], MEL(tone(2)[: 22 * MEL.hop]), atol=1e-6)
    assert rows.describe().endswith(", 2 cut")


def test_nothing_is_cut_off_of_a_sound_that_fits(manifest):
    write(manifest.parent / "0.wav", tone(0)[:-30])  # 19 frames, and less than one more
    both = [open_rows(manifest, **how) for how in ({}, dict(too_long="cut", frames=19))]
    first, second = (rows.take(np.array([0]))["audio"][0, :19] for rows in both)
    np.testing.assert_array_equal(first, second)


def test_rows_keep_the_protocol_of_batches(manifest):
    rows = open_rows(manifest, **MASKS, pad="silence")
    batches = pipeline.Batches(rows, 2, shuffle=False, repeat=False)
    last = batches.host(1)
    assert not any(array[1:].any() for name, array in last.items() if name != "rows")
    targets = sum(len(text.encode()) + 1 for text in TEXTS)
    assert rows.bytes_per_target == pytest.approx((targets - 3) / targets)
    with pytest.raises(IndexError):
        rows.take(np.array([3]))


@pytest.mark.parametrize("fields", [dict(time_masks=(1, 9)), dict(frequency_masks=(1, 6)), MASKS])
def test_masks_are_drawn_by_seed_epoch_and_row_alone(manifest, fields):
    rows = open_rows(manifest, seed=3, **fields)
    many = np.tile(EVERY, 4)
    epochs = np.repeat(np.arange(4), 3)
    whole = rows.take(many, epochs)
    alone = rows.take(np.array([2, 1]), np.array([3, 0]))
    for name in whole:
        np.testing.assert_array_equal(alone[name], whole[name][[11, 1]])
    other = open_rows(manifest, seed=4, **fields).take(many, epochs)["audio"]
    assert not np.array_equal(other, whole["audio"])
    assert not np.array_equal(whole["audio"][:3], whole["audio"][3:6])
    for name in whole:
        if name != "audio":
            np.testing.assert_array_equal(whole[name][:3], whole[name][3:6])


def test_rows_of_one_sound_are_hidden_each_otherwise(manifest):
    table(manifest, TEXTS[:1] * 2)
    audio = open_rows(manifest, **MASKS).take(np.array([0, 1]), np.zeros(2))["audio"]
    assert not np.array_equal(audio[0], audio[1])


def test_in_evaluation_nothing_is_hidden(manifest):
    plain, masked = (open_rows(manifest, **fields).take(EVERY) for fields in ({}, MASKS))
    np.testing.assert_array_equal(masked["audio"], plain["audio"])
    assert not np.array_equal(open_rows(manifest, **MASKS).take(EVERY, EVERY)["audio"], plain)


@pytest.mark.parametrize("pad", ["mask", "silence"])
def test_masks_stay_on_the_sound(manifest, pad):
    plain = open_rows(manifest, pad=pad).take(EVERY)["audio"]
    rows = open_rows(manifest, pad=pad, time_masks=(3, 40), frequency_masks=(1, 19))
    for epoch in range(20):
        found = rows.take(EVERY, np.full(3, epoch))["audio"]
        np.testing.assert_array_equal(found[:, 31:], plain[:, 31:])


def test_masks_hide_whole_frames_and_bands_of_every_width_up_to_the_largest():
    frames = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    mean = np.float32(frames.mean(dtype=np.float64))
    hidden = {"time": set(), "frequency": set()}
    for seed in range(200):
        draw = np.random.default_rng(seed)
        for name, axis in (("time", 1), ("frequency", 0)):
            masks = {"time": (), "frequency": (), name: (1, 4)}
            found = spec_augment.SpecAugment(**masks)(frames, draw)
            changed = (found != frames).all(axis)
            assert (found[~changed] if axis else found[:, ~changed]).size
            assert np.array_equal(
                found != frames,
                np.broadcast_to(changed[:, None] if axis else changed, frames.shape),
            )
            assert (found[found != frames] == mean).all()
            places = np.flatnonzero(changed)
            assert not len(places) or places[-1] - places[0] + 1 == len(places)
            hidden[name].add(len(places))
    assert hidden == {"time": {0, 1, 2, 3, 4}, "frequency": {0, 1, 2, 3, 4}}
    everything = spec_augment.SpecAugment((1, 1000), ())
    widths = [
        int((everything(frames, np.random.default_rng(s)) == mean).all(1).sum()) for s in range(50)
    ]
    assert min(widths) < 5
    assert 25 < max(widths) <= 30


def test_what_is_prepared_is_used_again(manifest, monkeypatch):
    first = open_rows(manifest)
    monkeypatch.setattr(spectrograms, "write_all", lambda *_, **__: pytest.fail("prepared again"))
    again = open_rows(manifest, frames=60, length=20, end=False, **MASKS)
    np.testing.assert_array_equal(again.take(EVERY)["audio"][:, :40], first.take(EVERY)["audio"])
    with pytest.raises(pytest.fail.Exception):
        open_rows(manifest, mels=10)


def test_the_same_sounds_have_one_fingerprint_whatever_holds_them(tmp_path):
    rows = []
    for ending, name in ((".wav", "rows.jsonl"), (".flac", "rows.tsv")):
        (tmp_path / ending).mkdir()
        rows.append(open_rows(folder_of(tmp_path / ending, name, ending)))
    np.testing.assert_array_equal(*(r.take(EVERY)["audio"] for r in rows))
    assert rows[0].fingerprint == rows[1].fingerprint
    source = tmp_path / ".wav" / "talks" / "rows.jsonl"
    changes = (dict(frames=50), dict(length=30), dict(mels=19), dict(end=False), dict(rate=16_000))
    changes += (dict(normalize="NFD"),)
    others = [open_rows(source, **change) for change in (*changes, dict(pad="silence"), MASKS)]
    assert len({r.fingerprint for r in (rows[0], *others)}) == len(others) + 1


@pytest.mark.parametrize("pad", ["mask", "silence"])
def test_a_row_that_does_not_fit_is_refused_skipped_or_cut_as_said(manifest, pad):
    named = f"{manifest}: line 3, 2.wav: its sound has 28 frames of 10 ms, and data.frames has "
    with pytest.raises(config.InputError, match=re.escape(named) + "room for 27; so it is with 1"):
        open_rows(manifest, frames=27, pad=pad)
    with pytest.raises(config.InputError, match="line 2, 1.wav: its text has 8 tokens, and data.l"):
        open_rows(manifest, length=6, pad=pad)
    skipped = open_rows(manifest, frames=27, length=6, too_long="skip", pad=pad)
    assert read(skipped) == ["one"]
    assert skipped.describe().endswith(", 2 skipped")
    cut = open_rows(manifest, frames=27, length=6, too_long="cut", pad=pad)
    assert read(cut) == ["one", "ein Bä"[:5] + "�", "zwei"]
    assert cut.describe().endswith(", 2 cut")
    assert cut.bytes_per_target == 0
    with pytest.raises(config.InputError, match="that can be used; 3 were skipped"):
        open_rows(manifest, frames=3, too_long="skip", pad=pad)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "silent", "short"])
def test_a_broken_sound_is_refused_by_name_or_skipped_and_counted(manifest, damage):
    bad = manifest.parent / "1.wav"
    data = bad.read_bytes()
    if damage in ("silent", "short"):
        write(bad, 0 * tone(1) if damage == "silent" else tone(1)[:150])
    else:
        bad.write_bytes({"truncated": data[:900], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(config.InputError, match=r"line 2, 1.wav cannot be heard: it ") as refused:
        open_rows(manifest)
    assert "data.broken=skip" in str(refused.value)
    rows = open_rows(manifest, broken="skip")
    assert read(rows) == [TEXTS[0], TEXTS[2]]
    assert rows.describe().endswith(", 1 broken left out")
    (manifest.parent / "0.wav").write_bytes(b"")
    (manifest.parent / "2.wav").write_bytes(b"")
    with pytest.raises(config.InputError, match='no sounds in the split "all": 3 cannot be heard'):
        open_rows(manifest, broken="skip")


def test_a_split_without_a_sound_is_refused_with_what_splits_are(manifest):
    with pytest.raises(config.InputError, match='the split "test". Name manifests by their split'):
        open_rows(manifest, split="test")


def test_a_sound_without_a_text_is_refused_or_skipped_as_said(manifest):
    manifest.write_text(manifest.read_text().replace('"one"', '" "'))
    with pytest.raises(config.InputError, match="line 1, 0.wav: its text is empty, as are 1 of 3"):
        open_rows(manifest)
    rows = open_rows(manifest, empty="skip")
    assert read(rows) == TEXTS[1:]
    assert rows.describe().endswith(", 1 skipped")


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(pad="zeros"), "data.pad = 'zeros': allowed are mask, silence"),
        (dict(too_long="skp"), 'refuse, skip, cut. Did you mean "skip"'),
        (dict(empty="cut"), "data.empty = 'cut'"),
        (dict(broken="ignore"), "data.broken = 'ignore': allowed are refuse, skip"),
        (dict(normalize="NFX"), "data.normalize"),
        (dict(length=1), "data.length = 1: allowed are 2 and more"),
        (dict(length=0, end=False), "data.length = 0: allowed are 1 and more"),
        (dict(frames=2), "data.frames = 2: allowed are 3 and more"),
        (dict(mels=0), "data.mels = 0"),
        (dict(rate=44_100), "data.rate = 44100"),
        (dict(time_masks=(2,)), "data.time_masks = (2,): allowed are () and (number, largest"),
        (dict(frequency_masks=(0, 3)), "data.frequency_masks = (0, 3)"),
        (dict(frequency_masks=(1, 20)), "must be less than the data.mels = 20 bands"),
        (dict(split="dev"), 'split "dev" is unknown'),
    ],
    ids=str,
)
def test_impossible_fields_are_refused(fields, words):
    with pytest.raises(config.InputError, match=re.escape(words)):
        open_rows("dtmf", **fields)


def test_dialled_digits_are_rows_that_fit_in_a_second_and_a_half():
    rows = open_rows("dtmf", split="test", frames=150, length=7, rate=16_000)
    assert 150 < len(rows) < 250
    assert all(re.fullmatch("[0-9]{2,6}", text) for text in read(rows))


@pytest.mark.skipif(not FSDD.exists(), reason=f"needs {FSDD.name} beside the repository")
def test_spoken_digits_are_told_apart_by_their_frames(tmp_path):
    """Free Spoken Digit Dataset, its first 5 of each digit and speaker against the next 5."""
    lines = {"test": [], "train": []}
    with tarfile.open(FSDD) as archive:
        for member in archive:
            name = pathlib.Path(member.name)
            if name.suffix != ".wav" or int(name.stem.split("_")[2]) >= 10:
                continue
            found = archive.extractfile(member)
            (tmp_path / name.name).write_bytes(found.read())
            digit, _, index = name.stem.split("_")
            row = json.dumps({"audio": name.name, "text": digit})
            lines["test" if int(index) < 5 else "train"].append(row)
    for split, rows in lines.items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    sides = {}
    for split in lines:
        fields = dict(split=split, rate=16_000, mels=40, frames=200, too_long="cut", length=2)
        rows = open_rows(tmp_path, **fields)
        assert len(rows) == 300
        batch = rows.take(np.arange(300))
        lengths = batch["audio_segments"].sum(1)
        both = zip(batch["audio"], lengths, strict=True)
        some = [frames[np.linspace(0, n - 1, 16).astype(int)] for frames, n in both]
        sides[split] = np.stack(some).reshape(300, -1), batch["targets"][:, 0]
    (x, digits), (known, labels) = sides["test"], sides["train"]
    nearest = ((x[:, None] - known) ** 2).sum(-1).argmin(1)
    assert (labels[nearest] == digits).mean() > 0.8

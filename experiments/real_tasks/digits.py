r"""Spoken digits, and strings of them: what is said in a sound.

    python experiments/real_tasks/digits.py spoken-digits --data DIR
    python experiments/real_tasks/digits.py spoken-digits-speaker --data DIR
    python experiments/real_tasks/digits.py spoken-numbers --data DIR

spoken-digits: 3,000 sounds of six speakers; the first five recordings of each digit and speaker
are the test, the next five validate. spoken-digits-speaker: six runs, each without one of the
speakers, who is its test. Both tell the digit as a text, by an encoder-decoder: CTC would have one
token for a whole sound, and after 600 steps no sound's likeliest alignment was right.
spoken-numbers: strings of three to five recordings of one speaker, by CTC; no recording is in the
strings of two splits.

Own sounds (docs/families.md, Audio): a folder with train.jsonl, validation.jsonl and test.jsonl,
whose lines are {"audio": path, "text": text}; one of few short texts a sound by the first recipe
(`length` is their bytes and one more), what is said in its order by the last:

    python -m bigmodel train --config experiments/real_tasks/digits.py:spoken-digits \
        --workdir RUN --config.data.source=audio:FOLDER --config.data.rate=16000 \
        --config.data.length=16 --config.model.length=16
"""

import json
import pathlib
import random
import shutil
import wave
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

import bigmodel

PLACE = "runs/real_tasks/{}/data"
FSDD = "github.com/Jakobovski/free-spoken-digit-dataset"
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
STRINGS = {"train": 4000, "validation": 300, "test": 600}  # of a split
LONGEST = 3.2  # seconds of a string: one that is longer is drawn again
WITHOUT = "without-"  # a run of spoken-digits-speaker: WITHOUT and whose sounds are the test


def get_config(run: str = "spoken-digits") -> ConfigDict:
    config = numbers() if run == "spoken-numbers" else digits(run)
    config.model.update(width=64, heads=4, dropout=0.1, mels=40, dtype="float32")
    speaker = run.startswith(WITHOUT)
    place = f"{PLACE.format('spoken-digits-speaker')}/{run}" if speaker else PLACE.format(run)
    config.data.update(
        source=f"audio:{place}",
        tokenizer="bytes",
        frames=config.model.frames,
        mels=40,
        rate=8000,
        frequency_masks=(2, 6),
        too_long="cut",
    )
    config.optimizer.update(name="adamw", b1=0.9, b2=0.98, weight_decay=0.1, clip=1.0)
    config.log.every = 50
    return config


def digits(run: str) -> ConfigDict:
    """A sound has one of few texts: an encoder-decoder."""
    config = bigmodel.default_config("speech", objective="next_token", data="speech")
    config.steps, config.batch = 500 if run.startswith(WITHOUT) else 1000, 64
    config.model.update(vocab=257, frames=128, encoder_layers=3, layers=1, length=8)
    config.data.update(length=8, time_masks=(1, 8))
    config.schedule.update(name="warmup_cosine", peak=2e-3, warmup=100, floor=1e-5)
    config.evals = evals("exact_match")
    return config


def numbers() -> ConfigDict:
    """What is said, in its order: CTC. Its last token is the blank, behind those of bytes."""
    config = bigmodel.default_config("speech_encoder", objective="ctc", data="speech")
    config.steps, config.batch = 1000, 32
    config.model.update(vocab=258, frames=320, layers=3)
    config.data.update(length=9, end=False, time_masks=(2, 20))
    config.schedule.update(name="warmup_cosine", peak=2e-3, warmup=100, floor=1e-5)
    config.evals = evals("wer", "exact_match")
    return config


def evals(*scores: str) -> dict:
    return dict(
        validation=dict(split="validation", every=500, scores=scores),
        test=dict(split="test", scores=scores),
    )


class Recording(NamedTuple):
    """A sound: who says which digit, and which time."""

    digit: str
    speaker: str
    index: int
    path: pathlib.Path

    @property
    def split(self) -> str:
        """The first five of each digit and speaker are the test; the next five validate."""
        return ("test", "validation", "train")[min(self.index // 5, 2)]


def recordings(unpacked: pathlib.Path) -> list[Recording]:
    paths = sorted((unpacked / "fsdd" / "recordings").glob("*.wav"))
    parts = [(*path.stem.split("_"), path) for path in paths]
    return [Recording(digit, speaker, int(index), path) for digit, speaker, index, path in parts]


def copied(found: Sequence[Recording], into: pathlib.Path) -> None:
    into.mkdir()
    for one in found:
        shutil.copy(one.path, into)


def by_index(unpacked: pathlib.Path, into: pathlib.Path) -> None:
    """All speakers are in all splits."""
    found = recordings(unpacked)
    copied(found, into / "sounds")
    for split in ("train", "validation", "test"):
        chosen = [one for one in found if one.split == split]
        write(into, split, [(f"sounds/{one.path.name}", one.digit) for one in chosen])


def by_speaker(unpacked: pathlib.Path, into: pathlib.Path) -> None:
    """A folder for each speaker, who is the test; the others' first ten of a digit validate."""
    found = recordings(unpacked)
    copied(found, into / "sounds")
    for speaker in SPEAKERS:
        (folder := into / f"{WITHOUT}{speaker}").mkdir()
        others = [one for one in found if one.speaker != speaker]
        chosen = {
            "train": [one for one in others if one.split == "train"],
            "validation": [one for one in others if one.split != "train"],
            "test": [one for one in found if one.speaker == speaker],
        }
        for split, some in chosen.items():
            write(folder, split, [(f"../sounds/{one.path.name}", one.digit) for one in some])


def joined(unpacked: pathlib.Path, into: pathlib.Path) -> None:
    """Strings of three to five digits, each of one speaker's recordings of one split."""
    found, draw = recordings(unpacked), random.Random(0)
    (into / "sounds").mkdir()
    for split, number in STRINGS.items():
        rows = []
        for row in range(number):
            speaker = SPEAKERS[row % len(SPEAKERS)]
            own = [one for one in found if (one.split, one.speaker) == (split, speaker)]
            path = into / "sounds" / f"{split}_{row}.wav"
            seconds = LONGEST + 1
            while seconds > LONGEST:
                chosen = draw.choices(own, k=draw.randint(3, 5))
                seconds = join([one.path for one in chosen], path)
            rows.append((f"sounds/{path.name}", " ".join(one.digit for one in chosen)))
        write(into, split, rows)


def join(paths: list[pathlib.Path], into: pathlib.Path) -> float:
    """One sound after another; how many seconds they are."""
    with wave.open(str(into), "wb") as out:
        for at, path in enumerate(paths):
            with wave.open(str(path), "rb") as sound:
                if not at:
                    out.setparams(sound.getparams())
                out.writeframes(sound.readframes(sound.getnframes()))
        return out.tell() / out.getframerate()


def write(folder: pathlib.Path, split: str, rows: Sequence[tuple[str, str]]) -> None:
    lines = [json.dumps({"audio": path, "text": text}) for path, text in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    import task

    TOLD = "a digit told as text by an encoder-decoder of width 64, {} steps of 64 sounds; "
    TASKS = {
        "spoken-digits": task.Task(
            title="which digit is spoken",
            figure="test/exact_match",
            unit="%",
            archives=("fsdd.tar.xz",),
            prepare=by_index,
            published=(
                task.Published(0.97, "recordings 0 to 4 of each digit and speaker", FSDD),
                task.Published(0.983, "an SVM on 13 MFCC", FSDD),
            ),
            setting=TOLD.format("1,000") + "recordings 0 to 4 are the test, 5 to 9 are held out",
        ),
        "spoken-digits-speaker": task.Task(
            title="which digit is spoken, by whom the model never heard",
            figure="test/exact_match",
            unit="%",
            archives=("fsdd.tar.xz",),
            prepare=by_speaker,
            published=(task.Published(0.1, "chance", "one of ten"),),
            setting=TOLD.format("500") + "each of six speakers is the test of a run; their mean",
            runs=tuple(f"{WITHOUT}{speaker}" for speaker in SPEAKERS),
        ),
        "spoken-numbers": task.Task(
            title="three to five spoken digits in a row",
            figure="test/wer",
            unit="word error rate",
            archives=("fsdd.tar.xz",),
            prepare=joined,
            published=(),
            setting="CTC, 3 layers of width 64, 1,000 steps of 32 strings; test strings are of "
            "recordings 0 to 4 of a speaker",
        ),
    }
    task.main(__file__, TASKS)

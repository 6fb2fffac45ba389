"""Sounds as a model hears them, worked out once: flat arrays of log-mel frames, and their texts."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import audio_sources, cache, log_mel, sounds, sources, store

FORMAT = 1  # raise it when the same inputs would give other arrays
BROKEN = ("refuse", "skip")


@dataclasses.dataclass(frozen=True)
class Hearing:
    """How a sound becomes frames.

    Attributes:
        mel: the bands.
        silence: frames that silence behind a sound fills up before it is heard, as Whisper does;
            0: the sound alone is heard.
        most: frames that are heard of a sound, the rest is cut off; 0: all.
    """

    mel: log_mel.LogMel
    silence: int
    most: int

    def __call__(self, sound: sounds.Sound) -> tuple[np.ndarray, float, int]:
        """Frames [K, M], what every frame behind them is, and frames of the whole sound.

        Of silence only the frames that reach into the sound are given: those behind are alike.
        """
        samples, hop = sounds.resampled(sound, self.mel.rate), self.mel.hop
        length = len(samples) // hop
        if len(samples) < self.mel.window:
            raise sounds.Fault(
                f"it is too short: {len(samples)} samples at {self.mel.rate:,} a second, and one "
                f"frame looks at {self.mel.window}"
            )
        if 0 < self.most < length:
            samples = samples[: self.most * hop]
        if not self.silence:
            return self.mel(samples), 0.0, length
        A = self.silence
        K = min(A, -(-(len(samples) + self.mel.window // 2) // hop))
        # One frame more is of silence alone; with it the frames before are far from the mirror.
        wanted = min(A, K + 1) * hop
        heard = self.mel(np.pad(samples[:wanted], (0, max(0, wanted - len(samples)))))
        return heard[:K], float(heard[-1, 0]), length


@dataclasses.dataclass(frozen=True)
class Spectrograms:
    """What was heard, memory-mapped.

    Attributes:
        frames: [frames of all, M] float32.
        offsets: [N + 1] int64; sound n is frames[offsets[n]:offsets[n + 1]].
        lengths: [N] int64, frames of each before anything was cut off.
        floors: [N] float32, what silence behind each is.
        told: [bytes] uint8, JSON of each sound's name and text, at told_offsets [N + 1] int64.
        broken: sounds that cannot be heard, and were left out.
        content: hash of all samples and texts, and of the bands.
    """

    frames: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    floors: np.ndarray
    told: np.ndarray
    told_offsets: np.ndarray
    broken: int
    content: str

    def __len__(self) -> int:
        return len(self.lengths)

    def sound(self, number: int) -> np.ndarray:
        """float32 [K, M]"""
        return self.frames[self.offsets[number] : self.offsets[number + 1]]

    def name_and_text(self, number: int) -> tuple[str, str]:
        start, stop = self.told_offsets[number : number + 2]
        name, text = json.loads(self.told[start:stop].tobytes())
        return name, text


def prepare(
    source: audio_sources.Source,
    split: str,
    hearing: Hearing,
    *,
    broken: str,
    folder: str,
    report: cache.Progress,
) -> Spectrograms:
    """What is heard of a source, worked out if it is not yet; `folder` as in `cache.open_cache`."""
    config.known("data.broken", broken, BROKEN)
    known = [FORMAT, source.name, source.fingerprint, split, dataclasses.asdict(hearing), broken]
    key = hashlib.sha256(json.dumps(["spectrograms", *known]).encode()).hexdigest()[:32]

    def write(scratch: pathlib.Path) -> dict[str, Any]:
        return write_all(source, split, hearing, scratch, skip=broken == "skip", report=report)

    _, arrays, notes = cache.built(key, folder, write)
    return Spectrograms(**arrays, broken=notes["broken"], content=notes["content"])


def write_all(
    source: audio_sources.Source,
    split: str,
    hearing: Hearing,
    scratch: pathlib.Path,
    *,
    skip: bool,
    report: Callable,
) -> dict[str, Any]:
    """Every sound that can be heard, one after another in a file."""
    kept: list[tuple[int, int, float]] = []  # frames here, of the whole, and of silence behind
    told: list[bytes] = []
    broken, seen = 0, 0
    content = hashlib.sha256(json.dumps(dataclasses.asdict(hearing.mel)).encode())
    with (scratch / "all").open("wb") as file:
        for example in source.read():
            try:
                sound = example.sound()
                seen += sound.samples.nbytes
                report(f"{source.name} {split}", seen, 0)
                digest = hashlib.blake2b(sound.samples.tobytes(), digest_size=16).digest()
                if not sources.in_split(digest, source.hashed):
                    continue
                frames, floor, length = hearing(sound)
            except sounds.Fault as fault:
                if not skip:
                    raise config.InputError(
                        f'source "{source.name}": {example.name} cannot be heard: {fault}. Mend '
                        "or remove it, or count and leave out such with --config.data.broken=skip."
                    ) from fault
                broken += 1
                continue
            file.write(np.ascontiguousarray(frames, "<f4").tobytes())
            kept.append((len(frames), length, floor))
            told.append(json.dumps([example.name, example.text]).encode())
            content.update(digest + json.dumps([sound.rate, example.text]).encode())
    if not kept:
        raise config.InputError(
            f'source "{source.name}" has no sounds in the split "{split}"'
            + (f": {broken} cannot be heard." if broken else ".")
            + " Name manifests by their split: of one alone 98, 1 and 1 per cent of the sounds are "
            "train, validation and test." * (source.hashed != "all")
        )
    sizes, lengths, floors = zip(*kept, strict=True)
    shape = (sum(sizes), hearing.mel.mels)
    filled = store.save_array(scratch / "frames.npy", shape, np.dtype("<f4")).reshape(-1)
    with (scratch / "all").open("rb") as file:
        for start in range(0, len(filled), 2**24):
            filled[start : start + 2**24] = np.frombuffer(file.read(2**26), "<f4")
    (scratch / "all").unlink()
    np.save(scratch / "offsets.npy", np.cumsum([0, *sizes], dtype=np.int64))
    np.save(scratch / "lengths.npy", np.array(lengths, np.int64))
    np.save(scratch / "floors.npy", np.array(floors, np.float32))
    np.save(scratch / "told.npy", np.frombuffer(b"".join(told), np.uint8))
    np.save(scratch / "told_offsets.npy", np.cumsum([0, *map(len, told)], dtype=np.int64))
    return {"broken": broken, "content": content.hexdigest()}

"""Rows of a sound and what is said in it: frames for an encoder, tokens for what tells them."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import (
    audio_sources,
    cache,
    log_mel,
    padding,
    row_numbers,
    spec_augment,
    spectrograms,
    tokenizers,
    transcripts,
)
from bigmodel.data.parts import OnePart

PAD = ("mask", "silence")
TOO_LONG, EMPTY = ("refuse", "skip", "cut"), ("refuse", "skip")


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """Sounds with their texts, one a row; see `open_rows`.

    Attributes:
        source, split: as in the config.
        tokenizer: made the tokens.
        sounds: what is heard.
        texts: what is said in each.
        chosen: [rows] numbers of the sounds that are used.
        frames: A.
        length: T.
        pad, end, seed: see `open_rows`.
        augment: what is hidden in training.
        cut, skipped: rows that are cut, and sounds that are not used.
    """

    source: str
    split: str
    tokenizer: tokenizers.Tokenizer
    sounds: spectrograms.Spectrograms
    texts: transcripts.Transcripts
    chosen: np.ndarray
    frames: int
    length: int
    pad: str
    end: bool
    augment: spec_augment.SpecAugment
    seed: int
    cut: int
    skipped: int

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def wants(self) -> dict[str, int]:
        """What the model must have room for."""
        return {"frames": self.frames, "mels": self.sounds.frames.shape[1]}

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """audio [b, A, M], audio_segments [b, A]; tokens, targets, weights, segments [b, T]."""
        indices = row_numbers.within(indices, len(self))
        said = [self.said(number) for number in self.chosen[indices]]
        row = padding.shifted(said, self.length, self.tokenizer.bos)
        row["weights"] = row["segments"].astype(np.float32)
        heard = []
        for at, (index, number) in enumerate(zip(indices, self.chosen[indices], strict=True)):
            sound = self.sounds.sound(number)
            if epochs is not None:
                draw = np.random.default_rng([self.seed, int(epochs[at]), int(index)])
                sound = self.augment(sound, draw)
            heard.append((sound, self.sounds.floors[number]))
        return sound_arrays(heard, self.frames, self.pad) | row

    def said(self, number: int) -> list[int]:
        """The tokens that are to be told of a sound, at most T."""
        start, stop = self.texts.offsets[number : number + 2]
        tokens = self.texts.tokens[start:stop].tolist()
        return [*tokens, *[self.tokenizer.eos] * self.end][: self.length]

    def describe(self) -> str:
        """One line of what they are."""
        frames = int(np.minimum(self.sounds.lengths[self.chosen], self.frames).sum())
        counts = {"cut": self.cut, "skipped": self.skipped, "broken left out": self.sounds.broken}
        return (
            f"{self.source} {self.split}: {len(self):,} sounds of "
            f"{frames / log_mel.FRAMES_A_SECOND / 3600:,.2f} hours"
            + "".join(f", {count:,} {what}" for what, count in counts.items() if count)
        )

    @functools.cached_property
    def bytes_per_target(self) -> float:
        """UTF-8 bytes of text for each target, to tell bits per byte; 0 where some are cut."""
        targets = np.diff(self.texts.offsets)[self.chosen] + self.end
        if (targets > self.length).any():
            return 0.0
        return float(self.texts.bytes[self.chosen].sum() / targets.sum())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every row's content: equal on any machine, however the source was reached."""
        known = [self.texts.content, self.frames, self.length, self.pad, self.end]
        known += [dataclasses.asdict(self.augment)]
        chosen = np.ascontiguousarray(self.chosen).tobytes()
        return hashlib.sha256(json.dumps(known).encode() + chosen).hexdigest()


def sound_arrays(
    heard: Sequence[tuple[np.ndarray, float]], A: int, pad: str
) -> dict[str, np.ndarray]:
    """Frames [K, M] of each row, and those of silence behind them -> its arrays [b, A, ...]."""
    audio = np.zeros((len(heard), A, heard[0][0].shape[1] if heard else 0), np.float32)
    segments = np.zeros(audio.shape[:2], np.int32)
    for at, (frames, floor) in enumerate(heard):
        audio[at, : len(frames)] = frames
        segments[at, : len(frames)] = 1
        if pad == "silence":
            audio[at, len(frames) :] = floor
            segments[at] = 1
    return {"audio": audio, "audio_segments": segments}


def open_rows(
    source: str = "dtmf",
    *,
    split: str = "train",
    tokenizer: str | tokenizers.Tokenizer = "bytes",
    length: int = 448,
    end: bool = True,
    frames: int = 3000,
    mels: int = 80,
    rate: int = 16_000,
    pad: str = "mask",
    time_masks: tuple[int, ...] = (),
    frequency_masks: tuple[int, ...] = (),
    too_long: str = "refuse",
    empty: str = "refuse",
    broken: str = "refuse",
    audio_field: str = "",
    text_field: str = "text",
    normalize: str = "NFC",
    cache_dir: str = "",
    seed: int = 0,
    progress: cache.Progress | None = None,
) -> Rows:
    """The sounds of a source and their texts, prepared on first use.

    Args:
        source: see `audio_sources.find`, also for split, audio_field and text_field.
        tokenizer: a name for `tokenizers.load`, or what it gave.
        length: T, tokens of a row.
        end: whether the token that ends a text is to be told, as a decoder's; False for CTC, which
            ends with the sound.
        frames: A, of a row, a hundred a second.
        mels: M, bands of a frame.
        rate: samples a second that sounds are brought to.
        pad: what is behind a sound: "mask", nothing, and `audio_segments` says so; or "silence",
            heard like the sound itself (Whisper).
        time_masks, frequency_masks: see `spec_augment.SpecAugment`; none in evaluation.
        too_long: what becomes of a row whose sound or text does not fit: "refuse", "skip" or "cut";
            and of one that is too short for its labels, where there is no `end`: refused or
            skipped.
        empty: what becomes of a sound without a text: "refuse" or "skip".
        broken: "refuse" a sound that cannot be heard, or "skip" and count it.
        normalize: a Unicode form of texts, or "none".
        cache_dir, progress: see `cache.open_cache`.
        seed: of all that is random.
    """
    augment = spec_augment.SpecAugment(tuple(time_masks), tuple(frequency_masks))
    augment.check(mels)
    for field, value, allowed in (
        ("pad", pad, PAD),
        ("too_long", too_long, TOO_LONG),
        ("empty", empty, EMPTY),
        ("normalize", normalize, cache.FORMS),
    ):
        config.known(f"data.{field}", value, allowed)
    for field, size, least in (("length", length, 1 + end), ("frames", frames, 3)):
        if size < least:
            raise config.InputError(f"data.{field} = {size}: allowed are {least} and more.")
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.load(tokenizer)
    found = audio_sources.find(source, split, audio_field=audio_field, text_field=text_field)
    hearing = hearing_of(rate, mels, frames, pad, cut=too_long == "cut")
    report = progress or (lambda what, done, total: None)
    how: dict[str, Any] = dict(broken=broken, folder=cache_dir, report=report)
    heard = spectrograms.prepare(found, split, hearing, **how)
    texts = transcripts.prepare_all(heard, tokenizer, normalize=normalize, folder=cache_dir)
    limits = {"frames": frames, "length": length - end}
    chosen, cut = usable(heard, texts, limits, too_long, empty)
    if not end:
        chosen = alignable(heard, texts, chosen, limits, too_long, pad)
    skipped = len(heard) - len(chosen)
    if not len(chosen):
        raise config.InputError(
            f'source "{source}" has no sounds in the split "{split}" that can be used; {skipped:,} '
            "were skipped."
        )
    lengths = (frames, length)
    how_padded = (*lengths, pad, end, augment, seed, cut, skipped)
    return Rows(source, split, tokenizer, heard, texts, chosen, *how_padded)


def hearing_of(rate: int, mels: int, frames: int, pad: str, *, cut: bool) -> spectrograms.Hearing:
    """How sounds are heard by the fields of `open_rows`."""
    mel = log_mel.LogMel(rate, mels)
    mel.check()
    return spectrograms.Hearing(mel, frames * (pad == "silence"), frames * cut)


def usable(
    heard: spectrograms.Spectrograms,
    texts: transcripts.Transcripts,
    limits: Mapping[str, int],
    too_long: str,
    empty: str,
) -> tuple[np.ndarray, int]:
    """Numbers of the sounds that may be used, and how many rows are cut.

    Refuses the first one that may not be there. `limits` are the most frames and tokens.
    """
    good, longer = np.ones(len(heard), bool), np.zeros(len(heard), bool)
    sizes = {"frames": heard.lengths, "length": np.diff(texts.offsets)}
    if (none := np.flatnonzero(sizes["length"] == 0)).size:
        if empty == "refuse":
            raise config.InputError(
                f"{heard.name_and_text(none[0])[0]}: its text is empty, as are {len(none):,} of "
                f"{len(heard):,}. Mend them, or leave them out by data.empty = 'skip'."
            )
        good[none] = False
    for field, most in limits.items():
        long = np.flatnonzero(sizes[field] > most)
        if len(long) and too_long == "refuse":
            what, unit = ("text", "tokens") if field == "length" else ("sound", "frames of 10 ms")
            raise config.InputError(
                f"{heard.name_and_text(long[0])[0]}: its {what} has {sizes[field][long[0]]:,} "
                f"{unit}, and data.{field} has room for {most:,}; so it is with {len(long):,} of "
                f"{len(heard):,}, and the longest has {sizes[field].max():,}. Allowed besides are "
                "data.too_long = 'skip' (leaves them out) and 'cut'."
            )
        longer[long] = True
    if too_long == "skip":
        good &= ~longer
    return np.flatnonzero(good), int((good & longer).sum())


STRIDE = 2  # frames of one vector of an encoder, of which CTC tells a label


def alignable(
    heard: spectrograms.Spectrograms,
    texts: transcripts.Transcripts,
    chosen: np.ndarray,
    limits: Mapping[str, int],
    too_long: str,
    pad: str,
) -> np.ndarray:
    """The chosen sounds that have a vector for each label, and between equal ones (CTC).

    Graves et al. 2006, section 3: of others no alignment exists, and their loss is infinite.
    """
    good = np.ones(len(chosen), bool)
    for at, number in enumerate(chosen):
        labels = texts.tokens[slice(*texts.offsets[number : number + 2])][: limits["length"]]
        needed = len(labels) + int((labels[1:] == labels[:-1]).sum())
        frames = limits["frames"] if pad == "silence" else heard.lengths[number]
        vectors = -(-min(int(frames), limits["frames"]) // STRIDE)
        good[at] = needed <= vectors
        if not good[at] and too_long != "skip":
            raise config.InputError(
                f"{heard.name_and_text(number)[0]}: its {len(labels)} labels need {needed} vectors "
                f"({STRIDE} frames of 10 ms each) and the sound has {vectors}: CTC has no "
                "alignment of them. Mend it, or leave such rows out by data.too_long = 'skip'."
            )
    return chosen[good]


def row_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of a row: name -> (shape, dtype)."""
    A, M, T = fields["frames"], fields["mels"], (fields["length"],)
    found = {"audio": ((A, M), "float32"), "audio_segments": ((A,), "int32")}
    found |= dict.fromkeys(("tokens", "targets", "segments"), (T, "int32"))
    return found | {"weights": (T, "float32")}

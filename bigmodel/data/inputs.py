"""What a model reads besides prompts when it is used: named in a command, and as arrays."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigmodel import config
from bigmodel.data import image_sources, images, padding, prompts, sounds, speech, tokenizers

SHORTEST = 16  # tokens: shorter sources are padded to it, longer ones to a power of two


def source(
    texts: Sequence[str], tokenizer: tokenizers.Tokenizer, data: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Texts for an encoder, each with its end token: `source` and its segments, [rows, S]."""
    del data
    ids = [np.append(tokens, tokenizer.eos) for tokens in tokenizer.encode_many(texts)]
    S = 1 << (max(SHORTEST, *map(len, ids)) - 1).bit_length()
    rows, segments = padding.padded(ids, S)
    return {"source": rows, "source_segments": segments}


def audio(
    paths: Sequence[str], tokenizer: tokenizers.Tokenizer, data: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Files of sound, heard as the run's data was: `audio` [rows, A, M] and its segments."""
    A, pad = data["frames"], data["pad"]
    cut = data["too_long"] == "cut"
    hearing = speech.hearing_of(data["rate"], data["mels"], A, pad, cut=cut)
    heard = []
    for path in paths:
        try:
            frames, floor, length = hearing(sounds.read(path))
        except sounds.Fault as fault:
            raise config.InputError(f"--input=audio={path}: cannot be heard: {fault}.") from fault
        if length > A and not cut:
            raise config.InputError(
                f"--input=audio={path}: {length / 100:.2f} seconds; this model hears "
                f"{A / 100:.2f} at a time (data.frames = {A}). Give it in pieces."
            )
        heard.append((frames, floor))
    return speech.sound_arrays(heard, A, pad)


def image(
    paths: Sequence[str], tokenizer: tokenizers.Tokenizer, data: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Files of images as the run's data has them in evaluation: `images` [rows, H, W, C]."""
    del tokenizer
    encoded = []
    for path in paths:
        if not pathlib.Path(path).is_file():
            raise config.InputError(f"input image: no such file, {path}.")
        encoded.append(pathlib.Path(path).read_bytes())
        if why := image_sources.fault(encoded[-1]):
            raise config.InputError(f"input image: {path} is no whole image ({why}).")
    pixels = np.frombuffer(b"".join(encoded), np.uint8)
    offsets, labels = np.cumsum([0, *map(len, encoded)]), np.zeros(len(encoded), np.int32)
    shown = image_sources.Images(pixels, offsets, labels, ("",), 0, "")
    fields = {name: data[name] for name in ("size", "channels", "mean", "std")}
    plain: dict[str, Any] = dict(crop=(), flip=False, randaugment=(), mixup=0.0, cutmix=0.0)
    how = images.How(**fields, **plain)
    found = images.Rows("", "", shown, how, 0).take(np.arange(len(encoded)))
    return {"images": found["images"]}


class Input(NamedTuple):
    """What a model reads besides prompts.

    Attributes:
        reads: name in the batch of a model that does.
        make: (texts, tokenizer, fields of the config's data) -> arrays [rows, ...].
        told: it, and what the command takes, for messages.
    """

    reads: str
    make: Callable[..., dict[str, np.ndarray]]
    told: str


LIST = ".txt"  # of names of sounds, one a line
INPUTS: Mapping[str, Input] = {
    "source": Input(
        "source",
        source,
        "a source besides prompts: --input source=FILE, a text a line, or --input source=TEXT",
    ),
    "image": Input(
        "image_positions",
        image,
        "an image besides each prompt: --input image=FILE, of an image, or of paths, one a line",
    ),
    "audio": Input(
        "audio",
        audio,
        "sound besides prompts: --input audio=FILE, which ends in "
        f"{', '.join(sounds.SUFFIXES)}, or a {LIST} file of such names, one a line",
    ),
}


def begins(tokenizer: tokenizers.Tokenizer, data: Mapping[str, Any]) -> bool:
    """Whether bos is put before a prompt: before plain text as its tokenizer says, else always."""
    return tokenizer.starts or data["kind"] != "text"


def prompt_ids(
    texts: Sequence[str],
    tokenizer: tokenizers.Tokenizer,
    data: Mapping[str, Any],
    bos: int | None = None,
) -> list[np.ndarray]:
    """Prompts as the rows of a run's data begin: bos and text, or as their template says.

    An id below 0 is the place of an image's patch.

    Args:
        texts: the prompts; an empty one is bos alone.
        tokenizer: of the run.
        data: fields of the run's data.
        bos: what stands for it, of a model that was trained with another; None: the tokenizer's.
    """
    if data["kind"] not in ("prompted_text", "prompted_images"):
        first, put = [tokenizer.bos if bos is None else bos], begins(tokenizer, data)
        encoded = [tokenizer.encode(text) for text in texts]
        return [np.concatenate([first, i]) if put or not len(i) else i for i in encoded]
    shown = data["kind"] == "prompted_images"
    ids = prompts.template(data["template"], images=shown).ids(texts, tokenizer)
    return [prompts.with_patches(one, data["patches"]) for one in ids] if shown else ids


def arrays(
    given: Mapping[str, Sequence[str]],
    example: Mapping[str, object],
    tokenizer: tokenizers.Tokenizer,
    data: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """The arrays of all inputs of a model, or an InputError that says which it takes.

    Args:
        given: name -> texts, as many for each.
        example: a batch of the model, which has what it reads.
        tokenizer: of the run.
        data: fields of the run's data.
    """
    wanted = [name for name, of in INPUTS.items() if of.reads in example]
    for name in given:
        if name not in wanted:
            takes = ", ".join(wanted) or "none: it reads prompts alone"
            raise config.InputError(
                f"input {name!r}: this model takes {takes}.{config.nearest(name, wanted)}"
            )
    for name in wanted:
        if name not in given:
            raise config.InputError(f"this model reads {INPUTS[name].told}.")
    found: dict[str, np.ndarray] = {}
    for name, texts in given.items():
        found |= INPUTS[name].make(texts, tokenizer, data)
    return found


def parse(given: str) -> tuple[str, list[str]]:
    """ "NAME=FILE" -> its name and the file's lines, empty ones too; "NAME=TEXT" -> that text.

    "audio=FILE" -> that name of a file, or those that a list of names has, beside which they lie;
    an image's alike.
    What has no white space and looks like a file's name is no text: a slip would be read as one.
    Of an image the file is what is meant, unless it holds the paths of several, one a line.
    """
    name, equals, value = given.partition("=")
    if not equals or not name or not value:
        raise config.InputError(f"--input={given}: wants NAME=FILE or NAME=TEXT.")
    path = pathlib.Path(value)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # longer than any name, or with a zero in it
        is_file = False
    if name == "image" and value.lower().endswith(image_sources.SUFFIXES):
        return name, [value]
    if not is_file:
        if name == "audio" or (len(value.split()) == 1 and ("/" in value or path.suffix)):
            files = [str(f) for f in path.parent.glob("*")] if path.parent.is_dir() else []
            near = config.nearest(value, files)
            raise config.InputError(f"--input={given}: no such file.{near}")
        return name, [value]
    if name == "audio" and path.suffix.lower() != LIST:
        return name, [value]
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise config.InputError(f"--input={given}: is no UTF-8 text.") from error
    lines = [line.rstrip("\r") for line in (lines if lines[-1] else lines[:-1])]
    if not lines:
        raise config.InputError(f"--input={given}: the file is empty; a text a line is wanted.")
    of_files = name in ("audio", "image")
    return name, [str(path.parent / line) for line in lines] if of_files else lines

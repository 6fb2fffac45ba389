"""What a model reads besides prompts when it is used: named in a command, and as arrays."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import sounds, speech, tokenizers

SHORTEST = 16  # tokens: shorter sources are padded to it, longer ones to a power of two


def begun(
    texts: Sequence[str], tokenizer: tokenizers.Tokenizer, data: Mapping[str, Any]
) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """Ids of texts that are to go on, as documents begin, and the token that ends them."""
    ids = [np.concatenate([[tokenizer.bos], tokenizer.encode(text)]) for text in texts]
    return ids, (tokenizer.eos,)


def source(
    texts: Sequence[str], tokenizer: tokenizers.Tokenizer, data: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Texts for an encoder, each with its end token: `source` and its segments, [rows, S]."""
    ids = [np.append(tokens, tokenizer.eos) for tokens in tokenizer.encode_many(texts)]
    S = 1 << (max(SHORTEST, *map(len, ids)) - 1).bit_length()
    found = {name: np.zeros((len(ids), S), np.int32) for name in ("source", "source_segments")}
    for row, tokens in enumerate(ids):
        found["source"][row, : len(tokens)] = tokens
        found["source_segments"][row, : len(tokens)] = 1
    return found


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


# name of what a model's batch holds -> (texts, tokenizer, fields of the data) -> [rows, ...]
INPUTS: Mapping[str, Callable[..., dict[str, np.ndarray]]] = {"source": source, "audio": audio}
LIST = ".txt"  # of names of files, one a line
HOW = {
    "source": "a source besides prompts: --input source=FILE, a text a line, or source=TEXT",
    "audio": "sound besides prompts: --input audio=FILE, which ends in "
    f"{', '.join(sounds.SUFFIXES)}, or a {LIST} file of such names, one a line",
}


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
    wanted = [name for name in INPUTS if name in example]
    for name in given:
        if name not in wanted:
            takes = ", ".join(wanted) or "none: it reads prompts alone"
            raise config.InputError(
                f"input {name!r}: this model takes {takes}.{config.nearest(name, wanted)}"
            )
    for name in wanted:
        if name not in given:
            raise config.InputError(f"this model reads {HOW[name]}.")
    found: dict[str, np.ndarray] = {}
    for name, texts in given.items():
        found |= INPUTS[name](texts, tokenizer, data)
    return found


def parse(given: str) -> tuple[str, list[str]]:
    """ "NAME=FILE" -> its name and the file's lines, empty ones too; "NAME=TEXT" -> that text.

    "audio=FILE" -> that name of a file, or those that a list of names has, which lie beside it.
    What has no white space and looks like a file's name is no text: a slip would be read as one.
    """
    name, equals, value = given.partition("=")
    if not equals or not name or not value:
        raise config.InputError(f"--input={given}: wants NAME=FILE or NAME=TEXT.")
    path = pathlib.Path(value)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # longer than any name, or with a zero in it
        is_file = False
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
    return name, [str(path.parent / line) for line in lines] if name == "audio" else lines

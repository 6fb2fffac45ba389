"""What is said in sounds, as tokens: made once, none cut."""

import dataclasses
import hashlib
import json
import pathlib
import unicodedata
from typing import Any, cast

import numpy as np

from bigmodel.data import cache, prepare, sources, spectrograms, tokenizers

FORMAT = 1  # raise it when the same inputs would give other arrays
AT_A_TIME = 2**12  # texts that go to the tokenizer together


@dataclasses.dataclass(frozen=True)
class Transcripts:
    """The texts of all sounds, memory-mapped; one of blanks alone has no tokens.

    Attributes:
        tokens: [tokens of all] uint16 or uint32, without ends.
        offsets: [N + 1] int64; text n is tokens[offsets[n]:offsets[n + 1]].
        bytes: [N] int64, of its UTF-8.
        content: hash of the sounds and of their tokens.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    bytes: np.ndarray
    content: str


def prepare_all(
    heard: spectrograms.Spectrograms,
    tokenizer: tokenizers.Tokenizer,
    *,
    normalize: str,
    folder: str,
) -> Transcripts:
    """The tokens of what is said in sounds.

    Args:
        heard: the sounds.
        tokenizer: makes the tokens.
        normalize: a Unicode form, or "none".
        folder: as in `cache.open_cache`.
    """
    known = [FORMAT, heard.content, tokenizer.fingerprint, normalize, unicodedata.unidata_version]
    key = hashlib.sha256(json.dumps(["transcripts", *known]).encode()).hexdigest()[:32]

    def write(scratch: pathlib.Path) -> dict[str, Any]:
        pieces: list[np.ndarray] = []
        sizes: list[int] = []
        for start in range(0, len(heard), AT_A_TIME):
            some = range(start, min(start + AT_A_TIME, len(heard)))
            texts = [text if text.strip() else "" for _, text in map(heard.name_and_text, some)]
            if normalize != "none":
                form = cast(sources.Form, normalize)
                texts = [unicodedata.normalize(form, text) for text in texts]
            pieces += tokenizer.encode_many(texts)
            sizes += [len(text.encode("utf-8", "replace")) for text in texts]
        tokens = np.concatenate(pieces).astype(prepare.token_dtype(tokenizer.size))
        offsets = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
        arrays = {"tokens": tokens, "offsets": offsets, "bytes": np.array(sizes, np.int64)}
        for name, array in arrays.items():
            np.save(scratch / f"{name}.npy", array)
        content = json.dumps([heard.content, tokenizer.fingerprint]).encode()
        content += tokens.astype("<i4").tobytes() + offsets.tobytes()
        return {"content": hashlib.sha256(content).hexdigest()}

    _, arrays, notes = cache.built(key, folder, write)
    return Transcripts(**arrays, content=notes["content"])

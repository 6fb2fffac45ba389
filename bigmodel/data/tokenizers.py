"""Text to ids and back: bytes, `tokenizer.json` files and SentencePiece models.

`load(name)` gives a Tokenizer. Encoding adds no special tokens, and text that looks like a special
token is encoded as plain text, but for `encode_with_specials`; decoding leaves special tokens out.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath

from bigmodel import config

# What stands for the end and the start of a text in the files that people have, most usual first.
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "[SEP]")
START_OF_TEXT = ("<|begin_of_text|>", "<s>", "<bos>", "[CLS]")
# And for what is hidden from an encoder.
MASKS = ("[MASK]", "<mask>")
SETTINGS = "tokenizer_config.json"  # beside a tokenizer


class Tokenizer(Protocol):
    """What the rest of the house knows of a tokenizer."""

    @property
    def name(self) -> str:
        """As given to `load`."""

    @property
    def size(self) -> int:
        """Number of ids; each id is below it."""

    @property
    def eos(self) -> int:
        """The id that ends a document."""

    @property
    def bos(self) -> int:
        """The id that stands before a document's first token; `eos` if the format has none."""

    @property
    def mask(self) -> int:
        """The id that stands for a hidden token; `size`, one more, if the format has none."""

    @property
    def starts(self) -> bool:
        """Whether `bos` stands before a text that is to go on."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that shapes the ids."""

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text, int32, without special tokens."""

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text; by the library's own threads where it has them."""

    @property
    def specials(self) -> Mapping[str, int]:
        """The special tokens as a text would write them, and their ids."""

    def encode_with_specials(self, text: str) -> np.ndarray:
        """Ids of a text that is trusted: special tokens that it writes become their ids."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without special tokens; bytes that are not UTF-8 become U+FFFD."""


def load(name: str) -> Tokenizer:
    """ "bytes", a tokenizer.json (or a folder that has one), or a SentencePiece .model file."""
    if name == "bytes":
        return Bytes()
    path = config.place(name, "tokenizer")
    if path.is_dir():
        for file in ("tokenizer.json", "tokenizer.model"):
            if (path / file).is_file():
                path = path / file
                break
    if not path.is_file():
        raise config.InputError(
            f'tokenizer "{name}": no such file; allowed are bytes, a tokenizer.json or a folder '
            f"with one, and a SentencePiece .model.{config.nearest(name, ['bytes'])}"
        )
    if path.suffix == ".json":
        return _load_json(name, path)
    if path.suffix == ".model":
        return _load_sentencepiece(name, path)
    raise config.InputError(f'tokenizer "{name}": the file must end in .json or .model.')


@dataclasses.dataclass(frozen=True)
class Bytes:
    """The UTF-8 bytes of a text are its ids; 256 ends it."""

    name: str = "bytes"
    size: int = 257
    eos: int = 256
    bos: int = 256
    mask: int = 257
    starts: bool = True
    fingerprint: str = "bytes"

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    @property
    def specials(self) -> Mapping[str, int]:
        return {END_OF_TEXT[0]: self.eos}

    def encode_with_specials(self, text: str) -> np.ndarray:
        return _piece_by_piece(text, self)

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i for i in ids if 0 <= i < 256).decode("utf-8", "replace")


@dataclasses.dataclass(frozen=True)
class Json:
    """A tokenizer of the `tokenizers` library (BPE, Unigram, WordPiece)."""

    name: str
    size: int
    eos: int
    bos: int
    starts: bool
    fingerprint: str
    library: Any  # tokenizers.Tokenizer

    @property
    def mask(self) -> int:
        found = _first_id(self.library, MASKS)
        return self.size if found is None else found

    def encode(self, text: str) -> np.ndarray:
        return np.array(self.library.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self.library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    @functools.cached_property
    def specials(self) -> Mapping[str, int]:
        added = self.library.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    def encode_with_specials(self, text: str) -> np.ndarray:
        return np.array(self._trusting.encode(text, add_special_tokens=False).ids, np.int32)

    @functools.cached_property
    def _trusting(self) -> Any:
        """The library's own way with special tokens, which knows what spaces go with each."""
        import tokenizers

        library = tokenizers.Tokenizer.from_str(self.library.to_str())
        library.encode_special_tokens = False
        return library

    def decode(self, ids: Iterable[int]) -> str:
        return self.library.decode([int(i) for i in ids], skip_special_tokens=True)


@dataclasses.dataclass(frozen=True)
class SentencePiece:
    """A SentencePiece model (Kudo and Richardson 2018, arXiv:1808.06226)."""

    name: str
    size: int
    eos: int
    bos: int
    starts: bool
    fingerprint: str
    library: Any  # sentencepiece.SentencePieceProcessor

    @property
    def mask(self) -> int:
        known = (self.library.piece_to_id(name) for name in MASKS)
        return next((i for i in known if i != self.library.unk_id()), self.size)

    def encode(self, text: str) -> np.ndarray:
        return np.array(self.library.encode(text), np.int32)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(ids, np.int32) for ids in self.library.encode(list(texts))]

    @functools.cached_property
    def specials(self) -> Mapping[str, int]:
        controls = filter(self.library.is_control, range(self.size))
        return {self.library.id_to_piece(number): number for number in controls}

    def encode_with_specials(self, text: str) -> np.ndarray:
        return _piece_by_piece(text, self)

    def decode(self, ids: Iterable[int]) -> str:
        return self.library.decode([i for i in map(int, ids) if not self.library.is_control(i)])


def _piece_by_piece(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """`encode_with_specials` where the library has none of it."""
    longest = sorted(tokenizer.specials, key=len, reverse=True)
    ids: list[np.ndarray] = [np.empty(0, np.int32)]
    for piece in re.split(f"({'|'.join(map(re.escape, longest))})", text):
        if piece in tokenizer.specials:
            ids.append(np.array([tokenizer.specials[piece]], np.int32))
        elif piece:
            ids.append(tokenizer.encode(piece))
    return np.concatenate(ids)


class Stream:
    """Text out of ids that come one by one, never half a character.

    The pieces of `push` and the last one of `finish` are together `decode` of all ids.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self._decode = decode
        self._ids: list[int] = []
        self._start, self._settled = 0, 0  # ids before `settled` are out, from `start` on context

    def push(self, *ids: int) -> str:
        """The text that these ids complete; "" while a character is incomplete."""
        self._ids.extend(ids)
        return self._text(held="\ufffd")

    def finish(self) -> str:
        """What was held back."""
        return self._text(held=None)

    def _text(self, held: str | None) -> str:
        # The last piece of text is decoded again as context: many formats write the space between
        # two words only if a word stands before it.
        before = self._decode(self._ids[self._start : self._settled])
        text = self._decode(self._ids[self._start :])
        if len(text) <= len(before) or (held is not None and text.endswith(held)):
            return ""
        self._start, self._settled = self._settled, len(self._ids)
        return text[len(before) :]


def _load_json(name: str, path: epath.Path) -> Json:
    import tokenizers

    try:
        text = path.read_text()
        library = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise config.InputError(f'tokenizer "{name}" is no tokenizer.json: {error}') from error
    library.encode_special_tokens = True  # a document that says "</s>" does not end there
    library.no_truncation()
    library.no_padding()
    said = settings(path.parent)
    eos = _first_id(library, [named_token(said, "eos_token"), *END_OF_TEXT])
    bos = _first_id(library, [named_token(said, "bos_token"), *START_OF_TEXT])
    if eos is None:
        raise config.InputError(
            f'tokenizer "{name}" has no token that ends a text; allowed are '
            f"{', '.join(END_OF_TEXT)}, or an eos_token in {path.parent}/{SETTINGS}."
        )
    bos = eos if bos is None else bos
    size = max(library.get_vocab(with_added_tokens=True).values()) + 1
    fingerprint = hashlib.sha256(f"{text}\0{eos}\0{bos}".encode()).hexdigest()
    # Our own rows of text begin so. Of a Hugging Face folder the file says what is added, and not
    # its add_bos_token, which transformers passes over where there is a tokenizer.json.
    starts = said is None or library.encode("a").ids[:1] == [bos]
    return Json(name, size, eos, bos, starts, fingerprint, library)


def settings(folder: epath.Path) -> dict[str, Any] | None:
    """The tokenizer_config.json of a tokenizer's folder; None: there is none."""
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise config.InputError(f"{path}: is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise config.InputError(f"{path}: is no JSON object.")
    return found


def named_token(said: dict[str, Any] | None, key: str) -> str | None:
    """The token that settings name by a key such as "eos_token": text, or a dict with it."""
    token = (said or {}).get(key)
    return token["content"] if isinstance(token, dict) else token


def _first_id(library: Any, names: Iterable[str | None]) -> int | None:
    ids = (library.token_to_id(name) for name in names if name)
    return next((i for i in ids if i is not None), None)


def _load_sentencepiece(name: str, path: epath.Path) -> SentencePiece:
    import sentencepiece

    proto = path.read_bytes()
    try:
        library = sentencepiece.SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise config.InputError(f'tokenizer "{name}" is no SentencePiece model.') from error
    eos, bos = library.eos_id(), library.bos_id()
    if eos < 0:
        raise config.InputError(f'tokenizer "{name}" has no </s>; train it with an eos_id.')
    fingerprint = hashlib.sha256(proto).hexdigest()
    size = library.get_piece_size()
    starts = bool((settings(path.parent) or {}).get("add_bos_token", True))
    return SentencePiece(name, size, eos, bos if bos >= 0 else eos, starts, fingerprint, library)

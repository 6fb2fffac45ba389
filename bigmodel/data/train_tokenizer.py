"""Trains a tokenizer on documents and writes it as a tokenizer.json that `tokenizers.load` reads.

The same documents give the same file, byte for byte: the library breaks ties by the order of hash
tables, which differs from run to run, so what it leaves open is put in order here.
"""

import collections
import dataclasses
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from bigmodel import config
from bigmodel.data import sources

EOS = "<|endoftext|>"
UNKNOWN = "[UNK]"
PREFIX = "##"  # of a WordPiece that goes on with a word

# WordPiece has one piece a character at least; Chinese text alone has some thousand characters.
MOST_CHARACTERS = 8000


def train_on(
    source: str,
    path: epath.PathLike,
    *,
    split: str = "train",
    mixture: Mapping[str, float] | None = None,
    normalize: str = "NFC",
    field: str = "text",
    algorithm: str = "bpe",
    size: int = 8192,
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """`train` on the documents of a source, or of each in a mixture; see `text.open_rows`."""
    names = list(mixture) if mixture else [source]
    found = [sources.find(name, split, field=field, extensions=extensions) for name in names]
    texts = Texts(tuple(found), normalize, progress or (lambda what, done, total: None))
    train(texts, path, algorithm=algorithm, size=size)


@dataclasses.dataclass(frozen=True)
class Texts:
    """The normalised texts of sources, to be read as often as one likes.

    Attributes:
        found: the sources.
        normalize: form of the text.
        progress: is told (what, bytes read, 0).
    """

    found: tuple[sources.Source, ...]
    normalize: str
    progress: Callable[[str, int, int], None]

    def __iter__(self) -> Iterator[str]:
        for source in self.found:
            read = 0
            for part in source.parts:
                for text, size, _ in sources.texts(source.read(part), source.split, self.normalize):
                    read += size
                    self.progress(source.name, read, 0)
                    yield text


@dataclasses.dataclass(frozen=True)
class Anew:
    """Texts that are read from their beginning whenever they are asked for."""

    read: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        return self.read()


def train(
    texts: Iterable[str], path: epath.PathLike, *, algorithm: str = "bpe", size: int = 8192
) -> None:
    """Writes the tokenizer.json of a vocabulary trained on `texts`.

    Args:
        texts: read once, or twice for wordpiece.
        path: the file, local or remote.
        algorithm: "bpe" (Sennrich et al. 2016, arXiv:1508.07909) or "unigram" (Kudo 2018,
            arXiv:1804.10959) over bytes, which lose nothing; or "wordpiece" (Schuster and Nakajima
            2012) over words as in BERT, which loses white space.
        size: ids at most, with the special ones.
    """
    if algorithm not in ALGORITHMS:
        raise config.InputError(
            f'tokenizer algorithm "{algorithm}" is unknown; allowed are {", ".join(ALGORITHMS)}.'
            f"{config.nearest(algorithm, ALGORITHMS)}"
        )
    if algorithm != "wordpiece" and size < 257:
        raise config.InputError(
            f"tokenizer size {size}: allowed are 257 and more, for 256 bytes and {EOS}."
        )
    _write(epath.Path(path), json.dumps(ALGORITHMS[algorithm](texts, size), ensure_ascii=False))


def _bpe(texts: Iterable[str], size: int) -> dict[str, Any]:
    from tokenizers import models, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[EOS], initial_alphabet=_bytes(), show_progress=False
    )
    return json.loads(_over_bytes(models.BPE(), trainer, texts).to_str())


def _unigram(texts: Iterable[str], size: int) -> dict[str, Any]:
    from tokenizers import models, trainers

    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=[EOS], initial_alphabet=_bytes(), show_progress=False
    )
    made = json.loads(_over_bytes(models.Unigram(), trainer, texts).to_str())
    special, *pieces = made["model"]["vocab"]
    # The library adds up in the order of a hash table: the last digits of a score are not its own.
    pieces = sorted(([piece, round(score, 6)] for piece, score in pieces), key=_falling)
    # Bytes that the model does not need get made-up scores, 1e-4 apart from the lowest one upward.
    ceiling = pieces[-1][1] + 1e-4 * (len(_bytes()) + 1)
    made_up = [i for i, (piece, score) in enumerate(pieces) if len(piece) == 1 and score < ceiling]
    for i, byte in zip(made_up, sorted(pieces[i][0] for i in made_up), strict=True):
        pieces[i] = [byte, pieces[i][1]]
    pieces.sort(key=_falling)
    made["model"]["vocab"] = [special, *pieces]
    return made


def _wordpiece(texts: Iterable[str], size: int) -> dict[str, Any]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(text)
    common = sorted(counts, key=lambda character: (-counts[character], character))
    alphabet = sorted(c for c in common[:MOST_CHARACTERS] if not c.isspace())
    special = [EOS, UNKNOWN, "[CLS]", "[SEP]", "[MASK]"]
    # Named as special while it trains, "##c" has a fixed id, and ties between pieces go by ids.
    going_on = [PREFIX + character for character in alphabet]
    if size < len(special) + 2 * len(alphabet):
        raise config.InputError(
            f"tokenizer size {size}: WordPiece needs at least {len(special) + 2 * len(alphabet)} "
            f"for the {len(alphabet)} characters of these texts; bpe and unigram need 257."
        )
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=PREFIX, cleanup=False)
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=special + going_on,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=PREFIX,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = [t for t in made["added_tokens"] if t["content"] in special]
    made["model"]["vocab"] = dict(sorted(made["model"]["vocab"].items(), key=lambda item: item[1]))
    return made


ALGORITHMS = {"bpe": _bpe, "unigram": _unigram, "wordpiece": _wordpiece}


def _falling(piece: list) -> tuple[float, str]:
    return -piece[1], piece[0]


def _bytes() -> list[str]:
    """The 256 characters that stand for bytes (Radford et al. 2019)."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _over_bytes(model: Any, trainer: Any, texts: Iterable[str]) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _write(path: epath.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if "://" in os.fspath(path):  # an object appears whole or not at all
        path.write_text(text)
        return
    scratch = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex[:8]}")
    try:
        scratch.write_text(text)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)

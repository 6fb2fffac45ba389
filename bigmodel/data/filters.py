"""What keeps a document: ready-made filters of text, and those of a config file.

A filter is a function text -> bool; True keeps the text.
"""

import base64
import collections
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bigmodel import config
from bigmodel.data import sources

Filter = Callable[[str], bool]

# Rae et al. 2021 (arXiv:2112.11446), appendix A.1.1: "repetition removal", table A1.
DUPLICATE_LINES, DUPLICATE_LINE_CHARACTERS = 0.30, 0.20
TOP_NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("•", "‣", "●", "-", "*")


def gopher(text: str) -> bool:
    """Whether it reads like English prose: Rae et al. 2021, appendix A.1.1, "quality filtering"."""
    words, lines = text.split(), [line.strip() for line in text.splitlines() if line.strip()]
    if not 50 <= len(words) <= 100_000 or not 3 <= sum(map(len, words)) / len(words) <= 10:
        return False
    ellipses = text.count("...") + text.count("…")
    if max(text.count("#"), ellipses) > 0.1 * len(words):
        return False
    if sum(line.startswith(BULLETS) for line in lines) > 0.9 * len(lines):
        return False
    if sum(line.endswith(("...", "…")) for line in lines) > 0.3 * len(lines):
        return False
    if sum(any(map(str.isalpha, word)) for word in words) < 0.8 * len(words):
        return False
    return len(STOP_WORDS.intersection(re.findall(r"\w+", text.lower()))) >= 2


def unrepetitive(text: str) -> bool:
    """Whether little in it stands twice: lines, paragraphs, runs of words; ibid., table A1."""
    for apart in (r"\n{2,}", r"\n+"):
        counts = collections.Counter(piece for piece in re.split(apart, text.strip()) if piece)
        again = {piece: count - 1 for piece, count in counts.items()}
        if sum(again.values()) > DUPLICATE_LINES * counts.total():
            return False
        if sum(len(piece) * n for piece, n in again.items()) > DUPLICATE_LINE_CHARACTERS * len(
            text
        ):
            return False
    words = text.split()
    characters = sum(map(len, words))
    for n, most in TOP_NGRAMS.items():
        counts = collections.Counter(zip(*(words[i:] for i in range(n)), strict=False))
        top = max(counts.values(), default=0)
        longest = max((sum(map(len, gram)) for gram, c in counts.items() if c == top), default=0)
        if top > 1 and top * longest > most * characters:
            return False
    for n, most in DUPLICATE_NGRAMS.items():
        seen, within = set(), [False] * len(words)
        for at in range(len(words) - n + 1):
            gram = tuple(words[at : at + n])
            if gram in seen:  # a word that is in several counts once
                within[at : at + n] = [True] * n
            seen.add(gram)
        if sum(len(w) for w, twice in zip(words, within, strict=True) if twice) > most * characters:
            return False
    return True


@dataclasses.dataclass(frozen=True)
class Language:
    """Whether a text is of a language, to the py3langid library (Lui and Baldwin 2012).

    Attributes:
        code: of ISO 639-1, such as "en".
        least: probability that keeps a text.
    """

    code: str
    least: float = 0.65

    def __call__(self, text: str) -> bool:
        found, probability = _identifier().classify(text)
        return found == self.code and probability >= self.least

    @property
    def fingerprint(self) -> str:
        """Of the library's version too; asked for before a text is read."""
        known = _identifier().labels
        config.known("language", self.code, sorted(known))
        return f"{self.code} {self.least} {importlib.metadata.version('py3langid')}"


FILTERS: dict[str, Filter] = {
    "english": Language("en"),
    "gopher": gopher,
    "unrepetitive": unrepetitive,
}


def find(names: Sequence[str], own: Mapping[str, Filter] | None = None) -> dict[str, Filter]:
    """The filters of these names, ready-made or the user's `own`, in that order."""
    table = {**FILTERS, **(own or {})}
    for name in names:
        config.known("data.filters", name, table)
    return {name: table[name] for name in names}


def fingerprint(name: str, keep: Filter) -> str:
    """Changes with the function's text, the numbers and texts that it closes over, and its own."""
    if isinstance(keep, functools.partial):
        return json.dumps([fingerprint(name, keep.func), repr((keep.args, keep.keywords))])
    cells = [cell.cell_contents for cell in getattr(keep, "__closure__", None) or ()]
    plain = [repr(value) for value in cells if isinstance(value, bool | int | float | str | tuple)]
    return hashlib.sha256(json.dumps([sources.known_by(name, keep), plain]).encode()).hexdigest()


def refusing(text: str, filters: Mapping[str, Filter]) -> str | None:
    """The first filter, by name, that does not keep the text."""
    for name, keep in filters.items():
        said: Any = keep(text)
        if type(said).__name__ not in ("bool", "bool_"):  # NumPy's is no bool
            raise config.InputError(
                f'filter "{name}" gave {said!r}; allowed are True, which keeps a text, and False.'
            )
        if not said:
            return name
    return None


def packed(filters: Mapping[str, Filter]) -> str:
    """Filters as a text that another process of this machine unpacks; "" of none."""
    if not filters:
        return ""
    import cloudpickle

    for keep in filters.values():
        home = sys.modules.get(getattr(keep, "__module__", None) or "")
        if home is not None and home.__spec__ is None and home.__name__ != "__main__":
            cloudpickle.register_pickle_by_value(home)  # a config file: nobody can import it
    try:
        return base64.b64encode(cloudpickle.dumps(dict(filters))).decode()
    except Exception as error:
        raise config.InputError(
            f"data.filters = {tuple(filters)}: cannot go to other processes ({error}); allowed is "
            "data.workers = 1, or filters that make what they need when they are called."
        ) from error


@functools.lru_cache(maxsize=8)
def unpacked(text: str) -> dict[str, Filter]:
    """What `packed` packed; the same for the same text, with all that filters keep in memory."""
    import cloudpickle

    return cloudpickle.loads(base64.b64decode(text)) if text else {}


def wanted(module: str) -> Any:
    """A module that cleaning needs, and the library does not."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise config.InputError(
            f"{module.partition('.')[0]} is not installed; pip install 'bigmodel[clean]' has it."
        ) from error


@functools.cache
def _identifier() -> Any:
    langid = wanted("py3langid.langid")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)

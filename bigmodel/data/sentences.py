"""Sentences whose words have labels: files of columns, a user's function, and the embedded corpus.

A file has a word and its label on each line (of more columns: the first and the last), and an
empty line after each sentence: the form of CoNLL-2003 (Tjong Kim Sang and De Meulder 2003,
arXiv:cs/0306050).
"""

import io
import json
import keyword
import sys
import token as kinds_of_token
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bigmodel import config
from bigmodel.data import files, records, sources

Sentence = Mapping[str, Any]  # {"words": (...), "labels": (...)}
KINDS = ("python_stdlib", "conll:GLOB")
NEW_DOCUMENT = "-DOCSTART-"  # a line of its own before each document, and no sentence

LONGEST_LINE = 100  # characters of the embedded corpus' sentences
NAMES = {
    kinds_of_token.COMMENT: "comment",
    kinds_of_token.NUMBER: "number",
    kinds_of_token.OP: "operator",
    kinds_of_token.STRING: "string",
}


def find(
    name: str,
    split: str,
    *,
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
) -> records.Records:
    """Finds a source by its name in a config; raises InputError that names it if it is not there.

    Args:
        name: see KINDS, or a name in `extensions`.
        split: see `sources.find`.
        extensions: the user's own sources: functions that return dicts of "words" and "labels".
    """
    extensions = extensions or {}
    kind, _, where = name.partition(":")
    if name in extensions:
        found = sources.find(name, split, extensions=extensions)
        return records.Records(
            name,
            found.fingerprint,
            found.split,
            lambda: (checked(*r) for r in records.of_function(name, extensions)),
        )
    if name == "python_stdlib":
        made = json.dumps([sys.version, records.MODULES, LONGEST_LINE])
        return records.Records(name, made, sources.hashed_split(name, split), lines_of_modules)
    if kind == "conll" and where:
        paths, _, fingerprint = files.find(where, ".conll")
        split = sources.hashed_split(name, split)
        return records.Records(
            name, fingerprint, split, lambda: (s for path in paths for s in of_columns(path))
        )
    known = [*KINDS, *extensions]
    names = [known_name.partition(":")[0] for known_name in known]
    raise config.InputError(
        f'source "{name}" is unknown; allowed are {", ".join(known)}.{config.nearest(kind, names)}'
    )


def of_columns(path: str) -> Iterator[records.Named]:
    with files.opened(path) as file:
        words: list[str] = []
        labels: list[str] = []
        first = 1
        for number, line in enumerate(file, start=1):
            columns = line.decode("utf-8", "replace").split()
            if columns and columns[0] != NEW_DOCUMENT:
                if len(columns) < 2:
                    raise config.InputError(
                        f"{path}: line {number} has the word {columns[0]!r} and no label."
                    )
                first = first if words else number
                words.append(columns[0])
                labels.append(columns[-1])
            elif words:
                yield f"{path}: line {first}", {"words": words, "labels": labels}
                words, labels = [], []
        if words:
            yield f"{path}: line {first}", {"words": words, "labels": labels}


def checked(where: str, sentence: Sentence) -> records.Named:
    """A user's sentence, if it is one."""
    words, labels = (list(sentence.get(name) or []) for name in ("words", "labels"))
    if not words or len(words) != len(labels) or not all(isinstance(w, str) for w in words):
        raise config.InputError(
            f'{where} has {len(words)} "words" and {len(labels)} "labels"; allowed are lists of '
            "text, as long as each other."
        )
    return where, {"words": words, "labels": [str(label) for label in labels]}


def lines_of_modules() -> Iterator[records.Named]:
    """Lines of some modules of the standard library, and of what kind each token of theirs is."""
    from bigmodel.data import python_stdlib

    for name, path in python_stdlib.files():
        if name.removesuffix(".py") not in records.MODULES:
            continue
        lines: dict[int, list[tuple[str, str]]] = {}
        for found in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
            kind = NAMES.get(found.type, "")
            if found.type == kinds_of_token.NAME:
                kind = "keyword" if keyword.iskeyword(found.string) else "name"
            if kind and found.start[0] == found.end[0] and len(found.line) <= LONGEST_LINE:
                lines.setdefault(found.start[0], []).append((found.string, kind))
        for number, pairs in lines.items():
            words, labels = zip(*pairs, strict=True)
            yield f"{name}: line {number}", {"words": words, "labels": labels}

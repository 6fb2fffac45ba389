"""Entities in sentences, told by a tag for each word: B-X begins one of type X, I-X goes on."""

from collections.abc import Sequence

Span = tuple[str, int, int]


def is_tag(name: str) -> bool:
    return name == "O" or (name[:2] in ("B-", "I-") and len(name) > 2)


def spans(tags: Sequence[str]) -> set[Span]:
    """(type, first word, word after the last) of each entity of a sentence.

    As the script of CoNLL-2000 and 2003 has it (Tjong Kim Sang and De Meulder 2003,
    arXiv:cs/0306050): an I-X that follows no X begins one, so that other schemes are read too.
    What is no tag, as O, ends one.
    """
    found: set[Span] = set()
    kind, first = "", 0
    for at, tag in enumerate([*tags, "O"]):
        begins, _, own = tag.partition("-") if is_tag(tag) else ("O", "", "")
        if kind and (begins != "I" or own != kind):
            found.add((kind, first, at))
            kind = ""
        if own and not kind:
            kind, first = own, at
    return found


def of_spans(name: str, true: Sequence[Sequence[str]], told: Sequence[Sequence[str]]) -> float:
    """ "precision", "recall" or "f1" of entities: one counts where type, begin and end are right.

    They are counted over all sentences together. What would be a share of nothing is 0.
    """
    pairs = [(spans(one), spans(other)) for one, other in zip(true, told, strict=True)]
    hits = sum(len(one & other) for one, other in pairs)
    there, said = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    of = {"precision": said, "recall": there, "f1": (there + said) / 2}[name]
    return hits / of if of else 0.0

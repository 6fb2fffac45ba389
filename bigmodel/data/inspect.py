"""What a data set looks like, as text and as a page's facts: sizes, lengths, packing, examples."""

from typing import Any

import numpy as np

from bigmodel.data import examples, text

BAR = 40  # characters of the longest bar
CHARACTERS = 1000  # of an example's text on a terminal


def describe(rows: text.Rows | text.Mixture, *, shown: int = 3, characters: int = 300) -> str:
    """What `bigmodel data inspect` prints.

    Args:
        rows: as `text.open_rows` gave them.
        shown: rows shown decoded, spread over the data set.
        characters: of each, at most.
    """
    total = sum(rows.weights)
    blocks = []
    for number, part in enumerate(rows.parts):
        share = f", {rows.weights[number] / total:.1%} of the rows" if len(rows.parts) > 1 else ""
        blocks += [_sizes(part, share), _lengths(part)]
        blocks.append("\n".join(_examples(part, shown, characters)))
    return "\n\n".join(blocks)


def describe_arrays(rows: Any) -> str:
    """What rows of no text are: a line for each part; shape, dtype and range of their arrays."""
    sample = rows.take(np.unique(np.linspace(0, len(rows) - 1, 64).astype(np.int64)))
    lines = [part.describe() for part in rows.parts]
    for name, array in sample.items():
        low, high = array.min(), array.max()
        lines.append(
            f"  {name:<18}{array.dtype!s:<9}{list(array.shape[1:])!s:<18}{low:g} to {high:g}"
        )
    for part in rows.parts:
        lines += [f"  {name}: {words}" for name, words in _left_out(part).items()]
        lines += _examples(part, 3, CHARACTERS)
    return "\n".join(lines)


def facts(rows: Any, *, shown: int = 12) -> list[dict[str, Any]]:
    """What a page shows of each part; see `report.data_page.page`."""
    found = []
    for part, weight in zip(rows.parts, rows.weights, strict=True):
        plain = examples.of_text(part)
        lengths = {
            what: (quantiles(numbers), histogram(numbers))
            for what, numbers in examples.lengths(part).items()
        }
        found.append(
            {
                "name": part.describe().partition(": ")[0],
                "lead": part.describe(),
                "share": weight / sum(rows.weights),
                "facts": {"rows": f"{len(part):,}"} | _left_out(part)
                if plain is None
                else sizes(plain),
                "lengths": lengths,
                "examples": [vars(example) for example in examples.of(part, shown)],
            }
        )
    return found


def _left_out(part: Any) -> dict[str, str]:
    words = [f"{count:,} {name}" for name, count in examples.left_out(part).items()]
    return {"cut or left out": ", ".join(words)} if words else {}


def sizes(rows: text.Rows) -> dict[str, str]:
    """Name -> what is told of it, in words."""
    cache, length = rows.cache, rows.plan.length
    places = len(rows) * length
    return {
        "documents": f"{cache.documents:,} (dropped: {cache.dropped()})",
        "bytes": f"{cache.bytes:,} of UTF-8",
        "tokens": f"{rows.tokens:,} by {rows.tokenizer.name}, {rows.tokenizer.size:,} ids, "
        f"{cache.bytes / rows.tokens:.2f} bytes a token",
        "rows": f"{len(rows):,} of {length:,}, packing {rows.packing}: {rows.targets / places:.1%} "
        f"filled, {1 - rows.targets / rows.tokens:.1%} of the tokens cut off",
        "pieces": f"{_pieces_a_row(rows):.1f} a row",
        "cache": str(cache.folder),
        "fingerprint": rows.fingerprint[:16],
    }


def _sizes(rows: text.Rows, share: str) -> str:
    lines = sizes(rows)
    width = max(map(len, lines))
    body = "\n".join(f"  {name:<{width}}  {value}" for name, value in lines.items())
    return f"{rows.source}, {rows.split}{share}\n{body}"


def _pieces_a_row(rows: text.Rows, sample: int = 4096) -> float:
    """Documents and parts of documents in a row, by a sample."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, sample).astype(np.int64))
    return len(rows.plan.pieces(chosen)[0]) / len(chosen)


def _lengths(rows: text.Rows) -> str:
    """Histogram of document lengths."""
    [(what, lengths)] = examples.lengths(rows).items()
    counts = histogram(lengths)
    most = max(count for _, count in counts)
    lines = [f"  {w:>14}  {'#' * round(BAR * n / most):<{BAR}} {n:,}" for w, n in counts]
    return "\n".join([f"  {what}: {quantiles(lengths)}", *lines])


def quantiles(numbers: np.ndarray) -> str:
    found = np.percentile(numbers, (50, 90, 99, 100)).astype(int)
    return "median {:,}, 90 % {:,}, 99 % {:,}, longest {:,}".format(*found)


def histogram(numbers: np.ndarray) -> list[tuple[str, int]]:
    """("<= N", how many) in powers of two, from the first that has some."""
    counts = np.bincount(np.ceil(np.log2(np.maximum(numbers, 1))).astype(int))
    first = int(np.flatnonzero(counts)[0])
    return [(f"<= {2**at:,}", int(n)) for at, n in enumerate(counts) if at >= first]


def _examples(part: Any, count: int, characters: int) -> list[str]:
    return [
        f"  row {example.row:,}{f', {name}' * (name != 'text')}\n{_indented(words)[:characters]}"
        for example in examples.of(part, count)
        for name, words in example.texts.items()
    ]


def _indented(piece: str) -> str:
    return "\n".join(f"  | {line}" for line in piece.splitlines() or [""])

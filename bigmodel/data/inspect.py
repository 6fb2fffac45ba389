"""What a data set looks like, as text: sizes, lengths of documents, packing, examples."""

from typing import Any

import numpy as np

from bigmodel.data import text

BAR = 40  # characters of the longest bar


def describe(rows: text.Rows | text.Mixture, *, examples: int = 3, characters: int = 300) -> str:
    """What `bigmodel data inspect` prints.

    Args:
        rows: as `text.open_rows` gave them.
        examples: rows shown decoded, spread over the data set.
        characters: of each, at most.
    """
    total = sum(rows.weights)
    blocks = []
    for number, part in enumerate(rows.parts):
        share = f", {rows.weights[number] / total:.1%} of the rows" if len(rows.parts) > 1 else ""
        blocks += [_sizes(part, share), _lengths(part), _examples(part, examples, characters)]
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
        if hasattr(part, "shown"):  # of chats, what is learnt
            lines += ["  row 0", _indented(part.shown(0))]
    return "\n".join(lines)


def _sizes(rows: text.Rows, share: str) -> str:
    cache, length = rows.cache, rows.plan.length
    places = len(rows) * length
    lines = {
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
    width = max(map(len, lines))
    body = "\n".join(f"  {name:<{width}}  {value}" for name, value in lines.items())
    return f"{rows.source}, {rows.split}{share}\n{body}"


def _pieces_a_row(rows: text.Rows, sample: int = 4096) -> float:
    """Documents and parts of documents in a row, by a sample."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, sample).astype(np.int64))
    return len(rows.plan.pieces(chosen)[0]) / len(chosen)


def _lengths(rows: text.Rows) -> str:
    """Histogram of document lengths, in powers of two."""
    lengths = np.diff(rows.flat()[1]) - 1  # without eos
    powers = np.ceil(np.log2(np.maximum(lengths, 1))).astype(int)
    counts = np.bincount(powers)
    first = int(np.flatnonzero(counts)[0])
    lines = [
        f"  {f'<= {2**power:,}':>14}  {'#' * round(BAR * count / counts.max()):<{BAR}} {count:,}"
        for power, count in enumerate(counts)
        if power >= first
    ]
    quantiles = np.percentile(lengths, (50, 90, 99, 100)).astype(int)
    summary = "median {:,}, 90 % {:,}, 99 % {:,}, longest {:,}".format(*quantiles)
    return "\n".join([f"  tokens in a document: {summary}", *lines])


def _examples(rows: text.Rows, count: int, characters: int) -> str:
    blocks = []
    for index in np.unique(np.linspace(0, len(rows) - 1, count).astype(int)):
        row = rows[int(index)]
        pieces = [
            rows.tokenizer.decode(row["targets"][row["segments"] == segment].tolist())
            for segment in range(1, row["segments"].max() + 1)
        ]
        shown = "\n  | --\n".join(_indented(piece) for piece in pieces)
        blocks.append(f"  row {index:,}\n{shown[:characters]}")
    return "\n".join(blocks)


def _indented(piece: str) -> str:
    return "\n".join(f"  | {line}" for line in piece.splitlines() or [""])

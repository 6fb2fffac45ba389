"""The token cache: a source read, cleaned, de-duplicated and tokenised once.

Documents are one flat array of tokens, each document ended by `eos`, and the offsets between
them. A cache's folder is named by a hash of everything that shaped it.
"""

import contextvars
import dataclasses
import hashlib
import json
import os
import pathlib
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import filters, near_duplicates, prepare, sources, store, tokenizers, worker

FORMAT = 1  # raise it when the same inputs would give another cache

FORMS = ("NFC", "NFKC", "NFD", "NFKD", "none")

# Below this, starting processes costs more than they save.
BYTES_FOR_WORKERS = 2**25

# What prepares a source's parts while it is set, in place of this machine: `beam.Runner.run`.
ELSEWHERE: contextvars.ContextVar[Callable | None] = contextvars.ContextVar("elsewhere")

Progress = Callable[[str, int, int], None]  # (what, bytes done, bytes in all or 0 if unknown)


@dataclasses.dataclass(frozen=True)
class Cache:
    """Tokens of a split of a source, memory-mapped.

    Attributes:
        folder: where it lies.
        tokens: [N] uint16 or uint32, every document's tokens and its eos.
        offsets: [documents + 1] int64; document k is tokens[offsets[k]:offsets[k + 1]].
        documents, duplicates, empty: documents kept, and dropped for being equal or empty.
        near_duplicates: dropped for being nearly equal.
        filtered: documents that each filter dropped.
        bytes: UTF-8 bytes of the texts kept, after normalisation.
        content: hash of the texts kept and of the tokenizer: equal content, equal tokens, on any
            machine and from any place.
    """

    folder: pathlib.Path
    tokens: np.ndarray
    offsets: np.ndarray
    documents: int
    duplicates: int
    empty: int
    bytes: int
    content: str
    near_duplicates: int
    filtered: Mapping[str, int]

    def dropped(self) -> str:
        """What of the source is not in it: "2 duplicates, 3 empty, 12 by english"."""
        return _dropped(vars(self))


def open_cache(
    source: sources.Source,
    split: str,
    tokenizer: tokenizers.Tokenizer,
    *,
    normalize: str = "NFC",
    deduplicate: bool = True,
    keeping: Mapping[str, filters.Filter] | None = None,
    near: float = 0.0,
    folder: str = "",
    workers: int = 0,
    progress: Progress | None = None,
) -> Cache:
    """The cache of a source, built if it is not there.

    Args:
        source: what is read.
        split: its split, as given to `sources.find`.
        tokenizer: makes the tokens.
        normalize: a Unicode form, or "none".
        deduplicate: drops documents whose normalised text stood before.
        keeping: filters by name, see `filters.find`.
        near: drops documents as similar as this to one before, see `near_duplicates`; 0: none.
        folder: where caches lie, local or remote; "" means $BIGMODEL_CACHE or
            ~/.cache/bigmodel/tokens. A remote cache is copied to the latter before it is mapped.
        workers: processes; 0 means one for each core if the source is large enough to gain by it.
        progress: told of bytes done while a cache is built.
    """
    if normalize not in FORMS:
        raise config.InputError(
            f'normalize "{normalize}" is unknown; allowed are {", ".join(FORMS)}.'
            f"{config.nearest(normalize, FORMS)}"
        )
    if not 0 <= near <= 1:
        raise config.InputError(
            f"data.near_duplicates = {near}: allowed are 0 (none is looked for) to 1, the share of "
            "five-word runs in common above which the later document is dropped, such as 0.8."
        )
    key = _key(source, split, tokenizer, normalize, deduplicate, keeping, near)
    report = progress or (lambda what, done, total: None)

    def write(scratch: pathlib.Path) -> dict:
        how = (normalize, source.split, near > 0, keeping or {})
        preparation = prepare.Preparation(tokenizer.name, *how)
        notes = _tokenize(source, split, preparation, tokenizer, scratch, workers, report)
        notes |= _assemble(scratch, len(source.parts), deduplicate, near, tokenizer)
        if not notes["documents"]:
            raise config.InputError(
                f'source "{source.name}" has no documents in the split "{split}" '
                f"(dropped: {_dropped(notes)}). {_cure(source)}"
            )
        return notes

    local, arrays, meta = built(key, folder, write)
    counts = {k: meta[k] for k in ("documents", "duplicates", "empty", "bytes", "content")}
    more = {"near_duplicates": 0, "filtered": {}}  # of caches of older versions
    counts |= {name: meta.get(name, value) for name, value in more.items()}
    return Cache(local, arrays["tokens"], arrays["offsets"], **counts)


def built(
    key: str, folder: str, write: Callable[[pathlib.Path], dict]
) -> tuple[pathlib.Path, dict[str, np.ndarray], dict]:
    """The local folder of a key with its arrays and notes, made by `write` if it is not there.

    Args:
        key: hash of everything that shapes what is written.
        folder: see `open_cache`.
        write: (temporary folder) -> notes.
    """
    root = folder or os.environ.get("BIGMODEL_CACHE") or _home()
    if "://" not in root:
        local = pathlib.Path(root).expanduser() / key
        arrays, meta = store.build(local, write)
    else:
        local, remote = pathlib.Path(_home()) / key, config.place(root, "data.cache_dir") / key
        found = store.load(local) or store.fetch(remote, local)
        arrays, meta = found or store.build(local, write)
        if store.load_meta(remote) is None:
            store.push(local, remote)
    return local, arrays, meta


def noted(
    source: sources.Source,
    split: str,
    tokenizer: tokenizers.Tokenizer,
    *,
    folder: str = "",
    **cleaning: Any,
) -> dict | None:
    """What is noted of a cache ("documents", "tokens", ...), or None if it would have to be built.

    The arguments are those of `open_cache`.
    """
    root = folder or os.environ.get("BIGMODEL_CACHE") or _home()
    key = _key(source, split, tokenizer, **cleaning)
    if "://" not in root:
        return store.load_meta(pathlib.Path(root).expanduser() / key)
    here = store.load_meta(pathlib.Path(_home()) / key)
    return here or store.load_meta(config.place(root, "data.cache_dir") / key)


def _key(
    source: sources.Source,
    split: str,
    tokenizer: tokenizers.Tokenizer,
    normalize: str = "NFC",
    deduplicate: bool = True,
    keeping: Mapping[str, filters.Filter] | None = None,
    near: float = 0.0,
) -> str:
    shaped_by: dict[str, Any] = {
        "format": FORMAT,
        "source": [source.name, source.fingerprint, [p.get("field") for p in source.parts[:1]]],
        "split": split,
        "tokenizer": tokenizer.fingerprint,
        "normalize": [normalize, unicodedata.unidata_version],
        "deduplicate": deduplicate,
    }
    if keeping:  # else the key of a cache that is there already
        shaped_by["filters"] = [filters.fingerprint(*each) for each in keeping.items()]
    if near:
        how = (near_duplicates.PERMUTATIONS, near_duplicates.SHINGLE, near_duplicates.SCHEME)
        shaped_by["near_duplicates"] = [near, *how]
    return hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode()).hexdigest()[:32]


def _tokenize(
    source: sources.Source,
    split: str,
    preparation: prepare.Preparation,
    tokenizer: tokenizers.Tokenizer,
    scratch: pathlib.Path,
    workers: int,
    report: Progress,
) -> dict:
    """Every part's tokens, as files of their own in `scratch`."""
    what, total = f"{source.name} {split}", sum(source.sizes)
    few = total < BYTES_FOR_WORKERS and workers == 0
    done = 0

    def finish(index: int) -> None:
        nonlocal done
        done += source.sizes[index]
        report(what, done, total)

    if elsewhere := ELSEWHERE.get(None):
        if source.documents is not None:
            raise config.InputError(
                f'source "{source.name}" is a function, which this process alone can read; allowed '
                "is to prepare it without a runner."
            )
        counts = elsewhere(source.parts, preparation, scratch, finish)
    elif source.documents is not None or few or workers == 1 or len(source.parts) < 2:
        counts = []
        for index, part in enumerate(source.parts):

            def seen(read: int, most: int = source.sizes[index]) -> None:
                report(what, done + (min(read, most) if total else read), total)

            documents, prefix = source.read(part), scratch / f"{index:06}"
            counts.append(prepare.prepare(documents, preparation, tokenizer, prefix, seen))
            finish(index)
    else:
        processes = workers or _cores()
        counts = worker.run(source.parts, preparation, scratch, processes, finish)
    by_filter = {
        name: sum(c["filtered"].get(name, 0) for c in counts) for name in preparation.keeping
    }
    empty = sum(c["empty"] for c in counts)
    return {"source": source.name, "split": split, "empty": empty, "filtered": by_filter}


def _assemble(
    scratch: pathlib.Path,
    parts: int,
    deduplicate: bool,
    near: float,
    tokenizer: tokenizers.Tokenizer,
) -> dict:
    """Joins the parts in order, without what stood before. Same result for any workers."""
    if not parts:
        return {"documents": 0, "duplicates": 0, "near_duplicates": 0}
    prefixes = [scratch / f"{index:06}" for index in range(parts)]
    lengths = [np.load(f"{p}.lengths.npy") for p in prefixes]
    digests = np.concatenate([np.load(f"{p}.digests.npy") for p in prefixes])
    sizes = np.concatenate([np.load(f"{p}.bytes.npy") for p in prefixes])
    kept = _first_of_each(digests) if deduplicate else np.ones(len(digests), bool)
    others = kept
    if near:
        signed = np.concatenate([np.load(f"{p}.signatures.npy") for p in prefixes])
        others, kept = kept, near_duplicates.first_of_each(signed, kept, near)

    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths)[kept])]).astype(np.int64)
    np.save(scratch / "offsets.npy", offsets)
    dtype = prepare.token_dtype(tokenizer.size)
    tokens = store.save_array(scratch / "tokens.npy", (int(offsets[-1]),), dtype)
    first, written = 0, 0
    for prefix, part_lengths in zip(prefixes, lengths, strict=True):
        part_kept = kept[first : first + len(part_lengths)]
        part = np.load(f"{prefix}.tokens.npy", mmap_mode="r" if len(part_lengths) else None)
        part = part[np.repeat(part_kept, part_lengths)] if not part_kept.all() else part
        tokens[written : written + len(part)] = part
        first, written = first + len(part_lengths), written + len(part)
        for kind in ("tokens", "lengths", "bytes", "digests", *["signatures"] * bool(near)):
            os.remove(f"{prefix}.{kind}.npy")
    if isinstance(tokens, np.memmap):
        tokens.flush()
    content = hashlib.sha256(tokenizer.fingerprint.encode() + digests[kept].tobytes())
    return {
        "documents": int(kept.sum()),
        "duplicates": int(len(others) - others.sum()),
        "near_duplicates": int(others.sum() - kept.sum()),
        "bytes": int(sizes[kept].sum()),
        "tokens": int(offsets[-1]),
        "content": content.hexdigest(),
    }


def _first_of_each(digests: np.ndarray) -> np.ndarray:
    """[N, 2] hashes -> [N] bool: no equal row stands before."""
    first = np.ones(len(digests), bool)
    order = np.lexsort((digests[:, 0], digests[:, 1]))  # stable: equal rows stay in order
    equal = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    first[order[1:][equal]] = False
    return first


def _dropped(notes: Mapping[str, Any]) -> str:
    words = [f"{notes['duplicates']:,} duplicates", f"{notes['empty']:,} empty"]
    near = notes["near_duplicates"]
    words += [f"{near:,} near-duplicates"] if near else []
    return ", ".join(words + [f"{count:,} by {name}" for name, count in notes["filtered"].items()])


def _cure(source: sources.Source) -> str:
    if source.split == "all":
        return "Is it the source that you mean?"
    return (
        "Its splits are 98, 1 and 1 per cent of the documents, by a hash of their text: with few "
        'documents, name other files as a source of their own and use the split "all".'
    )


def _cores() -> int:
    """Cores that this process may use; a container often has fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _home() -> str:
    return os.path.expanduser("~/.cache/bigmodel/tokens")

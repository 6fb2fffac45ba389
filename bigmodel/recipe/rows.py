"""The data of a run: rows by split, batches to train on and to evaluate with."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from bigmodel import config
from bigmodel.data import cache, filters, kinds, pipeline, sources, text, tokenizers
from bigmodel.recipe import build, defaults, entries

Progress = cache.Progress
SECONDS_BETWEEN_LINES = 5.0
QUICK_BYTES = 2**26  # of a source: byte pairs on one core take 40 s for them


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One entry of the config's `evals`.

    Attributes:
        name: of the entry.
        batches: finite, in order; of as many rows as a training step takes at a time.
        every: steps between evaluations; 0: at the end only.
        chosen: numbers of the batches that are scored.
        bytes_per_target: UTF-8 bytes of text for each target, to tell bits per byte.
        scores: names of `scoring.SCORES`, told besides.
        num_beams: of the search for texts that are scored; 1: the likeliest token each time.
        max_new_tokens: of such a text; 0: as many as a row has.
    """

    name: str
    batches: pipeline.Batches
    every: int
    chosen: Sequence[int]
    bytes_per_target: float
    scores: tuple[str, ...] = ()
    num_beams: int = 1
    max_new_tokens: int = 0


def open_rows(loaded: config.Loaded, source: str, split: str, progress: Progress | None = None):
    """The rows of a split of a source (or of what the config says, for source "")."""
    data = loaded.config.data
    opener = defaults.builders(loaded.extensions)["data"][data.kind]
    given = {name: data[name] for name in kinds.fields(opener)}
    if "mixture" in given:
        given["mixture"] = None if source else entries.mixture(data.mixture) or None
    given |= {"source": source or data.source, "split": split}
    own = loaded.extensions.get("source")
    runtime = dict(seed=loaded.config.seed, progress=progress, extensions=own)
    runtime["own_filters"] = loaded.extensions.get("filter")
    runtime["training"] = (data.source, data.split)
    return kinds.open_rows(opener, given, **runtime)


def batch_spec(recipe: "build.Recipe") -> dict[str, jax.ShapeDtypeStruct]:
    """Shape [B, ...] and dtype of every array of a batch; the data is read only if it must be."""
    data = recipe.config.data
    if data.kind not in kinds.SHAPES:
        return train_batches(recipe).spec
    row = kinds.row_shapes(recipe.fields, data) | {"rows": ((), "int32")}
    return {
        name: jax.ShapeDtypeStruct((recipe.batch, *shape), dtype)
        for name, (shape, dtype) in row.items()
    }


def tokenizer_fingerprint(recipe: "build.Recipe") -> str:
    """Of the tokenizer, or "" where the data has none."""
    return recipe.tokenizer.fingerprint if "tokenizer" in recipe.config.data else ""


def open_small_rows(
    loaded: config.Loaded,
    source: str,
    split: str,
    progress: Progress | None = None,
    *,
    tokens: int,
) -> text.Rows | None:
    """`open_rows`, or None: more tokens, not prepared and long to prepare, or no such split."""
    data = loaded.config.data
    if data.kind != "text":
        return None
    try:
        own = loaded.extensions.get("source")
        found = sources.find(source, split, field=data.field, extensions=own)
    except config.InputError:
        return None
    cleaning = dict(normalize=data.normalize, deduplicate=data.deduplicate)
    cleaning["keeping"] = filters.find(data.filters, loaded.extensions.get("filter"))
    cleaning |= dict(near=data.near_duplicates, folder=data.cache_dir)
    noted = cache.noted(found, split, tokenizers.load(data.tokenizer), **cleaning)
    if noted is None and not 0 < sum(found.sizes) <= QUICK_BYTES:  # 0: nobody knows
        return None
    if noted is not None and noted["tokens"] > tokens:
        return None
    rows = open_rows(loaded, source, split, progress)
    return rows if rows.tokens <= tokens else None


def train_batches(recipe: "build.Recipe", progress: Progress | None = None) -> pipeline.Batches:
    """What the run trains on; batch s is a pure function of the config and s."""
    check_vocabulary(recipe)
    values = recipe.config
    rows = open_rows(recipe.loaded, "", values.data.split, progress)
    check_rows(recipe, rows)
    return pipeline.Batches(rows, recipe.batch, seed=recipe.seed, shuffle=values.data.shuffle)


def evaluations(recipe: "build.Recipe") -> dict[str, Evaluation]:
    """The entries of the config's `evals`, by name; their data should be prepared."""
    return {name: evaluation(recipe, name, entry) for name, entry in recipe.config.evals.items()}


def evaluation(
    recipe: "build.Recipe", name: str, entry: Mapping[str, Any], progress: Progress | None = None
) -> Evaluation:
    check_vocabulary(recipe)
    fields = entries.evaluation(name, entry)
    rows = open_rows(recipe.loaded, fields["source"], fields["split"], progress)
    check_rows(recipe, rows)
    at_a_time = recipe.batch // recipe.accumulate  # what fits in training fits here
    batches = pipeline.Batches(rows, at_a_time, shuffle=False, repeat=False)
    chosen = spread(len(batches), recipe.accumulate, fields["batches"])
    told = {field: fields[field] for field in ("scores", "num_beams", "max_new_tokens")}
    return Evaluation(name, batches, fields["every"], chosen, rows.bytes_per_target, **told)


def placed(recipe: "build.Recipe", evaluation: Evaluation) -> pipeline.ahead:
    """(number, batch on the mesh) of each batch of an evaluation; a context that ends the work."""

    def make(step: int) -> dict[str, jax.Array]:
        at = evaluation.chosen[step]
        return pipeline.place(evaluation.batches, at, lambda *_: recipe.batch_sharding)

    return pipeline.ahead(make, 0, len(evaluation.chosen))


def spread(batches: int, parts: int, most: int) -> list[int]:
    """At most so many runs of `parts` batches (0: all of them), over the whole split.

    Documents that stand together are alike. A run is a batch of training, so that the same rows
    are scored however many parts it is taken in.
    """
    runs = -(-batches // parts)
    most = min(most or runs, runs)
    starts = [parts * (i * runs // most) for i in range(most)]
    return [n for start in starts for n in range(start, min(start + parts, batches))]


def check_vocabulary(recipe: "build.Recipe") -> None:
    """Every token must have a row in the embedding table; to be asked before any is made."""
    if "tokenizer" not in recipe.config.data:
        return
    data, size, besides = recipe.config.data, recipe.tokenizer.size, ""
    if "mask_rate" in data and recipe.tokenizer.mask == size:
        size, besides = size + 1, " and one for what is masked"
    if data.kind in kinds.IDS:
        size = kinds.IDS[data.kind]({name: data[name] for name in data}, size)
    objective = defaults.builders(recipe.loaded.extensions)["objective"]
    if getattr(objective[recipe.config.objective.name], "blank", False):
        size, besides = size + 1, " and one for the blank"
        if "end" in data and data.end:
            raise config.InputError(
                f"data.end = True: labels of the objective {recipe.config.objective.name!r} end "
                "with the sound, and no token tells it; allowed is False."
            )
    if recipe.fields.get("vocab", size) < size:
        raise config.InputError(
            f"model.vocab = {recipe.fields['vocab']} is less than the {size} tokens of "
            f"data.tokenizer = {data.tokenizer!r}{besides}; allowed are {size} and more."
        )


def check_rows(recipe: "build.Recipe", rows: Any) -> None:
    """What rows say that they want of the model: room for their ids and classes."""
    for field, least in getattr(rows, "wants", {}).items():
        if recipe.fields.get(field, least) < least:
            raise config.InputError(
                f"model.{field} = {recipe.fields[field]} is less than the {least} of the data "
                f"({rows.describe()}); allowed are {least} and more."
            )
    named = getattr(rows, "classes", ())  # of images, which a model may take without classes
    if 0 < recipe.fields.get("classes", 0) < len(named):
        raise config.InputError(
            f"model.classes = {recipe.fields['classes']} is less than the {len(named)} classes of "
            f"{rows.source} ({', '.join(named[:8])}{', ...' * (len(named) > 8)}); allowed are "
            f"{len(named)} and more."
        )
    data = recipe.config.data
    if recipe.fields.get("causal") is False and data.get("mask_rate") == 0:
        raise config.InputError(
            "data.mask_rate = 0.0: a model that sees both sides (model.causal = False) would see "
            "what it is to tell; allowed are rates above 0."
        )


def prepare_data(
    loaded: config.Loaded,
    progress: Progress | None = None,
    runner: str | None = None,
    options: str | None = None,
    place: str | None = None,
) -> str:
    """Builds the caches of a config's splits, and says what they hold.

    Args:
        loaded: the config.
        progress: is told of what is read.
        runner, place: see `data.beam.Runner`; None: processes of this machine prepare.
        options: the runner's flags, spaces between them.
    """
    loaded = build.resolve(loaded)
    if not runner:
        return prepared(loaded, progress)
    if "workers" not in loaded.config.data:
        raise config.InputError(
            f"--runner={runner}: data.kind = {loaded.config.data.kind!r} is not prepared in parts; "
            "those that are have data.workers, such as 'text'."
        )
    from bigmodel.data import beam, cache

    before = cache.ELSEWHERE.set(
        beam.Runner(runner, tuple((options or "").split()), place or "").run
    )
    try:
        return prepared(loaded, progress)
    finally:
        cache.ELSEWHERE.reset(before)


def prepared(loaded: config.Loaded, progress: Progress | None) -> str:
    splits = [("", loaded.config.data.split)]
    for name, entry in loaded.config.evals.items():
        fields = entries.evaluation(name, entry)
        splits.append((fields["source"], fields["split"]))
    lines = []
    for source, split in dict.fromkeys(splits):
        lines += [part.describe() for part in open_rows(loaded, source, split, progress).parts]
    return "\n".join(dict.fromkeys(lines))


def preparing(
    show: Callable[[str], None] = config.to_stderr, now: Callable[[], float] = time.monotonic
) -> Progress:
    """Tells of the preparation of data in plain lines, at most every few seconds."""
    told = now()

    def report(what: str, done: int, total: int) -> None:
        nonlocal told
        if now() - told > SECONDS_BETWEEN_LINES:
            told = now()
            share = f"{done / total:.0%}" if total else f"{done / 2**20:,.0f} MiB"
            show(f"preparing {what}: {share}")

    return report


def inspect_data(
    loaded: config.Loaded, progress: Progress | None = None, *, report: str = ""
) -> str:
    """What the data of a config looks like, as text for a terminal; `report`: a page to write."""
    loaded = build.resolve(loaded)
    from bigmodel.data import inspect
    from bigmodel.report import data_page, markup

    rows = open_rows(loaded, "", loaded.config.data.split, progress)
    if report:
        facts = inspect.facts(rows)
        title = f"{loaded.config.data.kind}, {' and '.join(part['name'] for part in facts)}"
        markup.write(report, data_page.page(title, facts))
    if loaded.config.data.kind == "text":
        return inspect.describe(rows)
    return inspect.describe_arrays(rows)


def train_tokenizer(
    loaded: config.Loaded, *, kind: str, size: int, out: str, progress: Progress | None = None
) -> str:
    """Trains a tokenizer on the training split of a config's data, and says where it is.

    Args:
        loaded: the config.
        kind: "bpe", "unigram" or "wordpiece".
        size: tokens in the vocabulary.
        out: where the tokenizer.json goes.
        progress: is told of what is read.
    """
    from bigmodel.data import train_tokenizer as training

    loaded = build.resolve(loaded)
    data, own = loaded.config.data, loaded.extensions.get("source")
    config.known("data.kind", data.kind, ["text", *kinds.TEXTS])
    if data.kind == "text":
        training.train_on(
            data.source,
            out,
            split=data.split,
            mixture=entries.mixture(data.mixture) or None,
            normalize=data.normalize,
            field=data.field,
            algorithm=kind,
            size=size,
            extensions=own,
            progress=progress,
        )
    else:
        texts = training.Anew(lambda: kinds.TEXTS[data.kind](data, own))
        training.train(texts, out, algorithm=kind, size=size)
    tokenizer = tokenizers.load(out)
    return f"{out}: {tokenizer.size:,} tokens; use it with --config.data.tokenizer={out}"

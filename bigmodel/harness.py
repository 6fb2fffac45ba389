"""A run as a model of lm-eval, whose tasks ask for likelihoods of texts and for texts.

The arithmetic is here without that library; `model` alone needs it.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel import config, trees, writing
from bigmodel.data import inputs as input_arrays
from bigmodel.decode import sampling
from bigmodel.decode.prompting import SHORTEST
from bigmodel.run import Run
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules

LOGITS = 2**26  # of a batch, in numbers


class Asked(NamedTuple):
    """Ids of a text and of what follows it, neither of them empty."""

    context: Sequence[int]
    continuation: Sequence[int]


def likelihoods(run: Run, asked: Sequence[Asked]) -> list[tuple[float, bool]]:
    """log p(continuation | context) of each, and whether each of its tokens is the likeliest.

    What is longer than the model is cut at the beginning of the context.

    Raises:
        InputError: a continuation is longer than the model.
    """
    L = length(run)
    found: list[tuple[float, bool]] = [(0.0, True)] * len(asked)
    for one in asked:
        if len(one.continuation) > L:
            raise config.InputError(
                f"a continuation of {len(one.continuation)} tokens: the model has {L} positions; "
                "take a task with shorter ones."
            )
    parts = rules.parts(run.recipe.mesh, dict(run.recipe.rules)["batch"])
    buckets: dict[int, list[int]] = {}
    for number, one in enumerate(asked):
        tokens = min(len(one.context) + len(one.continuation) - 1, L)
        T = min(1 << (max(tokens, SHORTEST) - 1).bit_length(), L)  # a power of two: few shapes
        buckets.setdefault(T, []).append(number)
    program = scorer(run.recipe.model.apply)
    for T, numbers in sorted(buckets.items()):
        rows = max(1, LOGITS // (T * run.recipe.fields["vocab"] * parts)) * parts
        rows = min(rows, -(-len(numbers) // parts) * parts)
        for start in range(0, len(numbers), rows):
            some = numbers[start : start + rows]
            batch = batch_of([asked[n] for n in some], rows, T)
            with meshes.use(run.recipe.mesh, run.recipe.rules):
                sums, likeliest = trees.on_host(program(run.params, batch))
            for row, number in enumerate(some):
                found[number] = float(sums[row]), bool(likeliest[row])
    return found


def batch_of(asked: Sequence[Asked], rows: int, T: int) -> dict[str, np.ndarray]:
    """Arrays [rows, T]; `weights` are 1 where a token of a continuation is the target."""
    batch = {name: np.zeros((rows, T), np.int32) for name in ("tokens", "targets", "segments")}
    batch["weights"] = np.zeros((rows, T), np.float32)
    for row, one in enumerate(asked):
        ids = np.array([*one.context, *one.continuation], np.int32)[-(T + 1) :]
        n = len(ids) - 1
        batch["tokens"][row, :n], batch["targets"][row, :n] = ids[:-1], ids[1:]
        batch["segments"][row, :n] = 1
        batch["weights"][row, n - len(one.continuation) : n] = 1
    return batch


@functools.cache
def scorer(apply: Callable) -> Callable:
    """(params, batch) -> summed log p of the targets that count [B], all of them likeliest [B]."""

    def of_batch(params, batch):
        logits = apply(params, batch)["logits"]
        counts = batch["weights"] > 0
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        own = jnp.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
        likeliest = (logits.argmax(-1) == batch["targets"]) | ~counts
        return jnp.where(counts, own, 0.0).sum(-1), likeliest.all(-1)

    return jax.jit(of_batch)


def windows(ids: Sequence[int], first: int, L: int) -> list[Asked]:
    """A long text in parts of at most L tokens, each told once after as much as has room.

    Args:
        ids: of the text.
        first: what stands before it.
        L: the model's positions.
    """
    whole = [first, *ids]
    starts = range(0, len(ids), L)
    ends = [min(start + L, len(ids)) for start in starts]
    return [
        Asked(whole[max(end - L, 0) : start + 1], ids[start:end])
        for start, end in zip(starts, ends, strict=True)
    ]


def written(run: Run, texts: Sequence[str], asked: Mapping[str, Any]) -> list[str]:
    """What follows each text, up to the first of the texts that a task stops at.

    Args:
        run: what writes.
        texts: each is cut at its beginning to leave room for what follows.
        asked: `until`, `max_gen_toks`, `do_sample`, `temperature`, `top_k`, `top_p` of the task.
    """
    stops = [asked["until"]] if isinstance(asked.get("until"), str) else asked.get("until") or []
    most = min(asked.get("max_gen_toks") or writing.MOST_NEW_TOKENS, length(run) - 1)
    drawn = {name: asked[name] for name in ("temperature", "top_k", "top_p") if asked.get(name)}
    if not asked.get("do_sample"):
        drawn = {"temperature": 0.0}
    ids = input_arrays.prompt_ids(texts, run.tokenizer, run.config.data, run.marks.start)
    found = writing.write(
        run.recipe,
        run.params,
        [one[-(length(run) - most) :] for one in ids],
        ends=run.marks.ends or (run.tokenizer.eos,),
        max_new_tokens=most,
        max_length=None,
        drawing=sampling.Sampling(**drawn),
        inputs={},
    )
    return [before(text, stops) for (text,) in found]


def before(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stops."""
    return text[: min((text.find(stop) for stop in stops if stop and stop in text), default=None)]


def length(run: Run) -> int:
    """Positions that the model was made for."""
    return run.recipe.fields["length"]


def check(run: Run) -> None:
    """Refuses a run that does not go on with plain text."""
    recipe = run.recipe
    family, objective = recipe.config.model.name, recipe.config.objective.name
    if objective != "next_token" or family != "decoder":
        raise config.InputError(
            f"{run.workdir}: lm-eval asks how a text goes on, and this is a model {family!r} with "
            f"the objective {objective!r}; allowed is a decoder with next_token."
        )


def model(run: Run) -> Any:
    """What `lm_eval.simple_evaluate(model=...)` takes.

    Args:
        run: as `bigmodel.load` gives it.

    Raises:
        InputError: lm-eval is not installed, or the run does not go on with plain text.
    """
    check(run)
    try:
        from lm_eval.api.model import TemplateLM
    except ImportError as error:
        raise config.InputError(
            "lm-eval is not installed: pip install 'bigmodel[lm-eval]'."
        ) from error
    tokenizer = run.tokenizer
    first = tokenizer.bos if run.marks.start is None else run.marks.start

    class Harness(TemplateLM):
        """lm-eval's view of the run."""

        @property
        def eot_token_id(self):
            return tokenizer.eos

        @property
        def prefix_token_id(self):
            return first

        def tok_encode(self, string, add_special_tokens=None, **_):
            put = add_special_tokens is not False and tokenizer.starts
            return [first] * put + tokenizer.encode(string).tolist()

        def _loglikelihood_tokens(self, requests, **_):
            return likelihoods(run, [Asked(context, after) for _, context, after in requests])

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            texts = (tokenizer.encode(request.args[0]).tolist() for request in requests)
            parts = [windows(ids, first, length(run)) for ids in texts]
            sums = iter(likelihoods(run, [part for of_text in parts for part in of_text]))
            return [sum(next(sums)[0] for _ in of_text) for of_text in parts]

        def generate_until(self, requests, disable_tqdm=False):
            found: list[str] = [""] * len(requests)
            alike: dict[str, list[int]] = {}
            for number, request in enumerate(requests):
                alike.setdefault(repr(sorted(request.args[1].items())), []).append(number)
            for numbers in alike.values():
                texts = [requests[n].args[0] for n in numbers]
                texts = written(run, texts, requests[numbers[0]].args[1])
                for number, text in zip(numbers, texts, strict=True):
                    found[number] = text
            return found

    return Harness()

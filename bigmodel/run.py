"""What a trained run can do: be loaded, evaluated, asked for text."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from bigmodel import checkpoint, compat, config, drawing, scores
from bigmodel import recipe as recipes
from bigmodel.data import text, tokenizers
from bigmodel.decode import generate as decoding
from bigmodel.decode import sampling
from bigmodel.evaluate import evaluate as evaluate_split
from bigmodel.evaluate import make_eval_step
from bigmodel.models.handle import Batch, Outputs
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules
from bigmodel.train import processes, state, workdir


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, ready to use.

    Attributes:
        workdir: where it came from.
        recipe: what it was made of, on this machine's mesh.
        params: to evaluate with, as `state.eval_params` chooses them.
        step: of the checkpoint.
    """

    workdir: str
    recipe: recipes.Recipe
    params: Any
    step: int

    @property
    def config(self) -> Any:
        return self.recipe.config

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        return self.recipe.tokenizer

    def apply(self, params: Any, batch: Batch) -> Outputs:
        """The model's outputs, on the run's mesh."""
        with meshes.use(self.recipe.mesh, self.recipe.rules):
            return self._apply(params, batch)

    @functools.cached_property
    def _apply(self) -> Callable:
        return jax.jit(self.recipe.model.apply)


def load(folder: str | epath.Path, *, step: int | None = None, extensions: bool = True) -> Run:
    """A run from its workdir, on the devices that are here.

    Args:
        folder: the workdir.
        step: of the checkpoint; None: the newest that is sound.
        extensions: runs the stored config file (it is code), as its own builders need.

    Raises:
        InputError: the folder is no workdir, or holds no such checkpoint, or none that is sound.
    """
    processes.join()
    compat.use_compilation_cache()
    loaded = workdir.read(folder, extensions=extensions)
    recipe = recipes.make_stored(loaded)
    abstract = state.abstract(recipe)
    place = workdir.place(folder) / "checkpoints"
    with checkpoint.Checkpoints(place, order=recipe.layer_order) as checkpoints:
        try:
            restored = checkpoints.restore(state.eval_parts(abstract), step=step)
        except (FileNotFoundError, checkpoint.UnsoundError) as error:
            raise config.InputError(" ".join(str(error).split())) from error
    params = state.eval_params(restored.tree, abstract.params)
    return Run(str(folder), recipe, params, restored.step)


def evaluate(
    folder: str | epath.Path, *, step: int | None = None, split: str | None = None
) -> dict[str, float]:
    """Scores a checkpoint on a split, beside a unigram and a bigram model of the same data.

    Args:
        folder: the workdir.
        step: of the checkpoint; None: the newest.
        split: of the run's source; None: each entry of the config's `evals`, all of its batches.

    Returns:
        "NAME/metric" -> value.
    """
    run = load(folder, step=step)
    recipe = run.recipe
    entries = {split: {"split": split}} if split else recipe.config.evals.to_dict()
    entries = entries or {"validation": {"split": "validation"}}
    eval_step = make_eval_step(recipe)
    found: dict[str, float] = {"step": run.step}
    progress = recipes.preparing()
    for name, entry in entries.items():
        chosen = recipes.evaluation(recipe, name, {**entry, "batches": 0}, progress)
        measured = evaluate_split(recipe, run.params, chosen, eval_step)
        measured |= baselines(recipe, chosen.batches.rows, progress)
        found |= {f"{name}/{metric}": value for metric, value in measured.items()}
    return found


# Counting pairs sorts the tokens of the training split: a minute for so many, and it says little
# about a corpus that large.
MOST_TOKENS_OF_BASELINES = 10**8


def baselines(
    recipe: recipes.Recipe, rows: Any, progress: recipes.Progress | None = None
) -> dict[str, float]:
    """Bits per byte of counts of tokens and of pairs of tokens, or {}.

    They are counted on the split that the run trains on (`data.split`), of the source that `rows`
    are of: an evaluation with a source of its own is held against that source's. There are none of
    a mixture, of more than `MOST_TOKENS_OF_BASELINES`, and where preparing the split would take
    long: to score a checkpoint needs only what is scored.
    """
    if not isinstance(rows, text.Rows):
        return {}
    train = recipes.open_small_rows(
        recipe.loaded,
        rows.source,
        recipe.config.data.split,
        progress,
        tokens=MOST_TOKENS_OF_BASELINES,
    )
    if train is None:
        return {}
    return {
        f"{name}_bits_per_byte": scores.ngram_bits_per_byte(
            train.flat()[0],
            rows.flat()[0],
            order=order,
            vocab=recipe.tokenizer.size,
            bytes=rows.bytes,
        )
        for order, name in ((1, "unigram"), (2, "bigram"))
    }


def generate(
    folder: str | epath.Path,
    prompts: Sequence[str],
    *,
    num_return_sequences: int = 1,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    step: int | None = None,
    on_text: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> list[list[str]]:
    """Continues each prompt.

    Args:
        folder: the workdir.
        prompts: texts; "" starts a document.
        num_return_sequences: samples for each prompt.
        max_new_tokens: the most tokens after the prompt.
        max_length: the most tokens with the prompt.
        seed: of the samples.
        step: of the checkpoint; None: the newest.
        on_text: is told (prompt, sample, piece) as text is made.
        **options: of `sampling.Sampling`: temperature, top_k, top_p, min_p, repetition_penalty.

    Returns:
        For each prompt its samples, without the prompt.
    """
    run = load(folder, step=step)
    options |= dict(num_return_sequences=num_return_sequences, seed=seed, on_text=on_text)
    return sample(run, prompts, max_new_tokens=max_new_tokens, max_length=max_length, **options)


def sample(
    run: Run,
    prompts: Sequence[str],
    *,
    num_return_sequences: int = 1,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    on_text: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> list[list[str]]:
    """`generate` from a run that is loaded already."""
    if drawing.draws(run.recipe):
        raise config.InputError(
            f"{run.workdir} draws images out of noise, and takes no --prompt: it wants --out DIR, "
            f"and --input label=NUMBER for a class."
        )
    tokenizer, recipe = run.tokenizer, run.recipe
    if not prompts:
        return []
    ids = [np.concatenate([[tokenizer.bos], tokenizer.encode(prompt)]) for prompt in prompts]
    if max_new_tokens is None and max_length is None:
        max_new_tokens = MOST_NEW_TOKENS
        if recipe.fields.get("position") == "learned":  # nobody asked for more than fits
            max_length = recipe.fields["length"] - 1
    check_length(recipe, ids, max_new_tokens, max_length)
    streams = [
        tokenizers.Stream(tokenizer.decode) for _ in range(len(prompts) * num_return_sequences)
    ]

    def on_tokens(index: int, tokens: np.ndarray) -> None:
        if on_text is not None:
            piece = streams[index].push(*tokens)
            on_text(*divmod(index, num_return_sequences), piece)

    with meshes.use(recipe.mesh, recipe.rules):
        samples = decoding.generate(
            recipe.model,
            run.params,
            ids,
            max_new_tokens=max_new_tokens,
            # The limit is in tokens of the prompt as it was given; bos is not one of them.
            max_length=None if max_length is None else max_length + 1,
            sampling=sampling.Sampling(**options),
            eos=tokenizer.eos,
            vocab=tokenizer.size,
            seed=seed,
            num_return_sequences=num_return_sequences,
            on_tokens=on_tokens,
            multiple=rules.parts(recipe.mesh, dict(recipe.rules)["batch"]),
        )
    for index, stream in enumerate(streams):  # a character that was never completed
        if on_text is not None and (rest := stream.finish()):
            on_text(*divmod(index, num_return_sequences), rest)
    texts = [tokenizer.decode(sample) for sample in samples]
    n = num_return_sequences
    return [texts[i * n : (i + 1) * n] for i in range(len(prompts))]


def draw(
    folder: str | epath.Path, labels: Sequence[str] = (), *, step: int | None = None, **options: Any
) -> np.ndarray:
    """Images of classes, [labels * samples, H, W, C]: `drawing.draw` of a workdir's run."""
    run = load(folder, step=step)
    return drawing.draw(run.recipe, run.params, labels, **options)


def draw_files(
    folder: str | epath.Path, out: str, inputs: Sequence[str] | None = None, **options: Any
) -> list[str]:
    """Files of what `draw` makes of classes that are given as "label=NUMBER"."""
    labels = drawing.labels_of(inputs)
    images = draw(folder, labels, **options)
    return drawing.save(images, labels, out, seed=options["seed"])


MOST_NEW_TOKENS = 256  # where nobody says a limit; fewer if learned positions end before


def check_length(
    recipe: recipes.Recipe, ids: list[np.ndarray], max_new: int | None, max_length: int | None
) -> None:
    """Learned positions end somewhere; text must not go on beyond them."""
    if recipe.fields.get("position") != "learned":
        return
    longest, positions = max(map(len, ids)), recipe.fields["length"]
    if longest >= positions:
        raise config.InputError(
            f"prompt of {longest} tokens: the model has {positions} learned positions; a prompt "
            f"may have at most {positions - 1}."
        )
    wanted = min(longest + (max_new or 10**9), (max_length or 10**9) + 1)
    if wanted > positions:
        raise config.InputError(
            f"prompt of {longest} tokens with {wanted - longest} more: the model has {positions} "
            f"learned positions; --max_new_tokens may be at most {positions - longest}."
        )

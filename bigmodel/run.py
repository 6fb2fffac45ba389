"""What a trained run can do: be loaded, evaluated, asked for text."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from bigmodel import checkpoint, compat, config, hearing, matching, scoring, trees, writing
from bigmodel import drawing as pictures
from bigmodel import recipe as recipes
from bigmodel.adapt import lora
from bigmodel.data import chat_template_files, tokenizers
from bigmodel.data import inputs as input_arrays
from bigmodel.decode import sampling
from bigmodel.evaluate import baselines, make_eval_step
from bigmodel.evaluate import evaluate as evaluate_split
from bigmodel.models.handle import Batch, Outputs
from bigmodel.sharding import mesh as meshes
from bigmodel.train import processes, state, workdir
from bigmodel.train.workdir import Marks


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model, ready to use.

    Attributes:
        workdir: where it came from.
        recipe: what it was made of, on this machine's mesh.
        params: to evaluate with, as `state.eval_params` chooses them.
        step: of the checkpoint.
        adapters: those that are in `params` already, by path.
        marks: ids that its texts begin and end with, if others than the tokenizer's.
    """

    workdir: str
    recipe: recipes.Recipe
    params: Any
    step: int
    adapters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    marks: Marks = dataclasses.field(default_factory=Marks)

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
    params = state.eval_params(restored.tree, abstract)
    adapters = {path: x for path, x in trees.flatten(params).items() if lora.is_adapter(path)}
    merged, marks = recipe.tuning.merged(params), workdir.marks(folder)
    return Run(str(folder), recipe, merged, restored.step, adapters, marks)


def evaluate(
    folder: str | epath.Path,
    *,
    step: int | None = None,
    split: str | None = None,
    scores: Sequence[str] | None = None,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
) -> dict[str, float]:
    """Scores a checkpoint on a split, beside a unigram and a bigram model of the same data.

    Args:
        folder: the workdir.
        step: of the checkpoint; None: the newest.
        split: of the run's source; None: each entry of the config's `evals`, all of its batches.
        scores, num_beams, max_new_tokens: as of an entry of `evals`; None: as it says.

    Returns:
        "NAME/metric" -> value.
    """
    run = load(folder, step=step)
    recipe = run.recipe
    entries = {split: {"split": split}} if split else recipe.config.evals.to_dict()
    entries = entries or {"validation": {"split": "validation"}}
    given = dict(scores=scores, num_beams=num_beams, max_new_tokens=max_new_tokens)
    asked = {"batches": 0} | {name: value for name, value in given.items() if value is not None}
    for name, entry in entries.items():
        scoring.check(recipe, name, {**entry, **asked})
    eval_step = make_eval_step(recipe)
    found: dict[str, float] = {"step": run.step}
    progress = recipes.preparing()
    for name, entry in entries.items():
        chosen = recipes.evaluation(recipe, name, {**entry, **asked}, progress)
        measured = evaluate_split(recipe, run.params, chosen, eval_step)
        measured |= baselines(recipe, chosen.batches.rows, progress)
        measured |= matching.retrieval(recipe, run.params, chosen)
        measured |= scoring.score(recipe, run.params, chosen, run.marks.ends)
        found |= {f"{name}/{metric}": value for metric, value in measured.items()}
    return found


def generate(
    folder: str | epath.Path,
    prompts: Sequence[str] = (),
    *,
    num_return_sequences: int = 1,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    step: int | None = None,
    on_text: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> list[list[str]]:
    """Continues each prompt, or writes what each source asks for.

    Args:
        folder: the workdir.
        prompts: texts; "" starts a document. Of a model with inputs, what each output begins with.
        num_return_sequences: samples for each prompt.
        max_new_tokens: the most tokens after the prompt.
        max_length: the most tokens with the prompt.
        seed: of the samples.
        step: of the checkpoint; None: the newest.
        on_text: is told (prompt, sample, piece) as text is made.
        **options: of `sample`: inputs, chat, num_beams, length_penalty; and of `sampling.Sampling`:
            temperature, top_k, top_p, min_p, repetition_penalty.

    Returns:
        For each prompt its samples, without the prompt.
    """
    run = load(folder, step=step)
    options |= dict(num_return_sequences=num_return_sequences, seed=seed, on_text=on_text)
    return sample(run, prompts, max_new_tokens=max_new_tokens, max_length=max_length, **options)


def sample(
    run: Run,
    prompts: Sequence[str] = (),
    *,
    num_return_sequences: int = 1,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    inputs: Mapping[str, Sequence[str]] | None = None,
    chat: bool = False,
    num_beams: int = 1,
    length_penalty: float = 0.6,
    on_text: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> list[list[str]]:
    """`generate` from a run that is loaded already.

    Args:
        run: what is asked.
        inputs: what the model reads besides, such as {"source": texts}.
        chat: each prompt is what a user says, and is answered (data/chat_template_files.py).
        num_beams: 1: texts are drawn; more: those are searched for that are likeliest.
        length_penalty: of the search, see `decode.beam.search`.
        **options: as of `generate`, and all that is not said here.
    """
    pictures.check_text(run.recipe, run.workdir)
    tokenizer, recipe, inputs = run.tokenizer, run.recipe, inputs or {}
    data = recipe.config.data
    if matching.matches(recipe):
        best = matching.told(recipe, run.params, inputs, prompts, best=num_return_sequences)
        return writing.told(best, on_text)
    arrays = input_arrays.arrays(inputs, recipe.example, tokenizer, data)
    drawing = sampling.Sampling(**options)
    if hearing.hears(recipe):
        asked: dict[str, Any] = {"prompt": "".join(prompts) or None, "chat": chat or None}
        asked |= dict(max_new_tokens=max_new_tokens, max_length=max_length)
        asked |= sampling.said(drawing)
        beams = dict(num_beams=num_beams, num_return_sequences=num_return_sequences)
        return writing.told(
            hearing.transcribe(recipe, run.params, arrays, asked=asked, **beams), on_text
        )
    prompts = one_each(prompts, inputs)
    if not prompts:
        return []
    ends = run.marks.ends or (tokenizer.eos,)
    if chat:
        ids, ends = chat_template_files.asked(prompts, tokenizer, data)
    else:
        ids = input_arrays.prompt_ids(prompts, tokenizer, data, run.marks.start)
    if max_length is not None:  # in tokens of the prompt as it was given; bos is not one of them
        max_length += input_arrays.begins(tokenizer, data)
    if max_new_tokens is None and max_length is None:
        max_new_tokens = writing.MOST_NEW_TOKENS
        max_length = writing.learned_positions(recipe)  # nobody asked for more than fits
    writing.check_length(recipe, ids, max_new_tokens, max_length)
    how: dict[str, Any] = dict(max_new_tokens=max_new_tokens, max_length=max_length, ends=ends)
    how |= dict(num_beams=num_beams, num_return_sequences=num_return_sequences, inputs=arrays)
    how |= dict(length_penalty=length_penalty, drawing=drawing, seed=seed, on_text=on_text)
    return writing.write(recipe, run.params, ids, **how)


def one_each(prompts: Sequence[str], inputs: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """A prompt for each row of the inputs: those that are given, or none or one for all."""
    rows = max([len(texts) for texts in inputs.values()], default=len(prompts))
    if len(prompts) < 2:
        prompts = [*prompts, ""][:1] * rows
    for name, texts in inputs.items():
        if len(texts) != len(prompts):
            raise config.InputError(
                f"{len(prompts)} prompts and {len(texts)} of {name!r}: there must be as many."
            )
    return prompts


def draw(
    folder: str | epath.Path, labels: Sequence[str] = (), *, step: int | None = None, **options: Any
) -> np.ndarray:
    """Images of classes, [labels * samples, H, W, C]: `drawing.draw` of a workdir's run."""
    run = load(folder, step=step)
    return pictures.draw(run.recipe, run.params, labels, **options)


def draw_files(
    folder: str | epath.Path, out: str, inputs: Sequence[str] | None = None, **options: Any
) -> list[str]:
    """Files of what `draw` makes of classes that are given as "label=NUMBER"."""
    labels = pictures.labels_of(inputs)
    images = draw(folder, labels, **options)
    return pictures.save(images, labels, out, seed=options["seed"])

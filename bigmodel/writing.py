"""What a run writes after ids of prompts, as text: drawn, or searched for."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel import recipe as recipes
from bigmodel.data import kinds, tokenizers
from bigmodel.decode import beam, generate, prompting, sampling
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules

OnText = Callable[[int, int, str], None]
MOST_NEW_TOKENS = 256  # where nobody says a limit; fewer if learned positions end before


def write(
    recipe: recipes.Recipe,
    params: Any,
    ids: Sequence[np.ndarray],
    *,
    ends: tuple[int, ...],
    max_new_tokens: int | None,
    max_length: int | None,
    drawing: sampling.Sampling,
    inputs: Mapping[str, np.ndarray],
    num_beams: int = 1,
    length_penalty: float = 0.6,
    num_return_sequences: int = 1,
    seed: int = 0,
    rows: int = 64,
    multiple: int = 1,
    shortest: int = prompting.SHORTEST,
    on_text: OnText | None = None,
) -> list[list[str]]:
    """The texts of each prompt.

    Args:
        recipe: of the run.
        params: on the recipe's mesh.
        ids: of each prompt.
        ends: tokens that end a text.
        max_new_tokens, max_length, num_return_sequences, seed: see `generate.generate`.
        drawing: how tokens are drawn; nothing may be said of it in a search.
        inputs: what the model reads besides, [prompts, ...] each.
        num_beams: 1: texts are drawn; more: those are searched for that are likeliest.
        length_penalty: of the search, see `beam.search`.
        rows: most at a time, beams counted.
        multiple: the number of rows is rounded up to it, and to what the mesh divides.
        shortest: prompts are padded to so many tokens.
        on_text: is told (prompt, sample, piece) as text is made.
    """
    parts = rules.parts(recipe.mesh, dict(recipe.rules)["batch"])
    how: dict[str, Any] = dict(
        max_new_tokens=max_new_tokens,
        max_length=max_length,
        eos=ends,
        vocab=recipe.tokenizer.size,
        num_return_sequences=num_return_sequences,
        rows=rows,
        multiple=math.lcm(multiple, parts),
        shortest=shortest,
        inputs=inputs,
        prefix="prefix" in kinds.row_shapes(recipe.fields, recipe.config.data),
    )
    with meshes.use(recipe.mesh, recipe.rules):
        if num_beams == 1:
            return drawn(recipe, params, ids, on_text, sampling=drawing, seed=seed, **how)
        sampling.check_search(drawing)
        how |= dict(num_beams=num_beams, length_penalty=length_penalty)
        found = beam.search(recipe.model, params, ids, **how)
    decode = recipe.tokenizer.decode
    return told([[decode(one.tokens) for one in of_prompt] for of_prompt in found], on_text)


def told(texts_of: list[list[str]], on_text: OnText | None) -> list[list[str]]:
    """Whole texts, of which `on_text` is told."""
    for i, texts in enumerate(texts_of):
        for j, whole in enumerate(texts):
            if on_text is not None:
                on_text(i, j, whole)
    return texts_of


def drawn(
    recipe: recipes.Recipe,
    params: Any,
    ids: Sequence[np.ndarray],
    on_text: OnText | None,
    *,
    num_return_sequences: int,
    **how: Any,
) -> list[list[str]]:
    """Samples of each prompt's ids; what they are made by is `decode.generate.generate`'s."""
    n, decode = num_return_sequences, recipe.tokenizer.decode
    streams = [tokenizers.Stream(decode) for _ in range(len(ids) * n)]

    def on_tokens(index: int, tokens: np.ndarray) -> None:
        if on_text is not None:
            on_text(*divmod(index, n), streams[index].push(*tokens))

    how |= dict(num_return_sequences=n, on_tokens=on_tokens)
    samples = generate.generate(recipe.model, params, ids, **how)
    for index, stream in enumerate(streams):  # a character that was never completed
        if on_text is not None and (rest := stream.finish()):
            on_text(*divmod(index, n), rest)
    texts = [decode(sample) for sample in samples]
    return [texts[i * n : (i + 1) * n] for i in range(len(ids))]


def check_length(
    recipe: recipes.Recipe, ids: list[np.ndarray], max_new: int | None, max_length: int | None
) -> None:
    """Learned positions end somewhere; text must not go on beyond them."""
    positions = learned_positions(recipe)
    if positions is None:
        return
    longest = max(map(len, ids))
    if longest >= positions:
        raise config.InputError(
            f"prompt of {longest} tokens: the model has {positions} learned positions; a prompt "
            f"may have at most {positions - 1}."
        )
    wanted = min(longest + (max_new or 10**9), max_length or 10**9)
    if wanted > positions:
        raise config.InputError(
            f"prompt of {longest} tokens with {wanted - longest} more: the model has {positions} "
            f"learned positions; --max_new_tokens may be at most {positions - longest}."
        )


def learned_positions(recipe: recipes.Recipe) -> int | None:
    """How many the model has: its `length`, where no other kind of position is said."""
    learned = recipe.fields.get("position", "learned") == "learned"
    return recipe.fields.get("length") if learned else None

"""Laws of text that is written from a source: it is the full forward's, whichever row it is in."""

import jax
import numpy as np
import pytest

from bigmodel.decode.generate import generate
from bigmodel.decode.sampling import Sampling
from tests.models.families import PAIRS, make, pairs, params

BEGINNINGS = [np.array([1]), np.array([1, 5, 3]), np.array([1, 4])]


@pytest.mark.parametrize("name", PAIRS)
def test_greedy_text_of_a_source_is_that_of_the_full_forward(name):
    """Two rows at a time of three, so that the inputs of the last are found by their number."""
    model, batch = make(name), pairs(3, 6)
    inputs = {key: batch[key] for key in ("source", "source_segments")}
    how = dict(max_new_tokens=4, sampling=Sampling(temperature=0.0), inputs=inputs)
    found = generate(model, params(name), BEGINNINGS, rows=2, multiple=2, **how)
    apply = jax.jit(model.apply)
    for row, text in enumerate(BEGINNINGS):
        alone = {key: array[row : row + 1] for key, array in inputs.items()}
        for token in found[row]:
            padded = np.zeros((1, 8), np.int32)
            padded[0, : len(text)] = text
            logits = apply(params(name), alone | {"tokens": padded})["logits"][0, len(text) - 1]
            assert int(token) == int(logits.argmax())
            text = np.append(text, token)
        assert len(text) == len(BEGINNINGS[row]) + 4


def test_samples_of_a_source_belong_to_their_prompt():
    batch = pairs(2, 6)
    inputs = {key: batch[key] for key in ("source", "source_segments")}
    how = dict(max_new_tokens=4, num_return_sequences=2, seed=3, inputs=inputs)
    together = generate(make("t5"), params("t5"), BEGINNINGS[:2], **how)
    apart = generate(make("t5"), params("t5"), BEGINNINGS[:2], rows=1, **how)
    assert [text.tolist() for text in together] == [text.tolist() for text in apart]

"""Laws of CTC: its loss is the sum over all alignments, and a row is what its frames say."""

import collections
import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
import pytest

from bigmodel import config, objectives
from bigmodel.decode import ctc as decoding
from bigmodel.models import speech_encoder
from tests.models.families import make, params, sounds

A, V = 5, 4  # labels 0, 1, 2 and the blank, 3


def log_probabilities(frames=A, seed=0):
    logits = 1.5 * np.random.default_rng(seed).normal(size=(frames, V))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def of_all_labellings(log_p):
    """Labels -> probability, by every alignment in float64."""
    found = collections.Counter()
    for path in itertools.product(range(V), repeat=len(log_p)):
        labels = tuple(k for k, _ in itertools.groupby(path) if k != V - 1)
        found[labels] += np.exp(sum(log_p[t, k] for t, k in enumerate(path)))
    return found


@dataclasses.dataclass(frozen=True)
class Told:
    """A model whose logits are the batch's."""

    def apply(self, params, batch, rngs=None) -> dict[str, Any]:
        return {"frame_logits": params * batch["logits"], "frame_segments": batch["heard"]}


def batch_of(log_p, labels, frames=A, room=4):
    """One row; the targets that count do not stand together, and padding is no label's."""
    targets, weights = np.full(2 * room, 1), np.zeros(2 * room)
    targets[: 2 * len(labels) : 2], weights[: 2 * len(labels) : 2] = labels, 1
    logits = np.full((A, V), 7.0)
    logits[:frames] = log_p
    return {
        "logits": logits[None].astype(np.float32),
        "heard": (np.arange(A) < frames).astype(np.int32)[None],
        "targets": targets[None].astype(np.int32),
        "weights": weights[None].astype(np.float32),
    }


value_and_grad = jax.jit(
    jax.value_and_grad(
        lambda scale, batch: objectives.OBJECTIVES["ctc"](Told())(scale, batch, None), has_aux=True
    )
)


def of_rows(*rows):
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("frames", [1, 3, A])
@pytest.mark.parametrize("labels", [(), (0,), (2, 1), (1, 1), (0, 1, 0), (0, 0, 2)])
def test_the_loss_is_the_sum_over_all_alignments(labels, frames):
    log_p = log_probabilities(frames)
    wanted = of_all_labellings(log_p)[labels]
    (loss, sums), slope = value_and_grad(1.0, batch_of(log_p, labels, frames))
    assert sums["weight"] == len(labels)
    if not wanted:
        assert sums["impossible"] == 1
        assert loss > 1e4
        return
    assert sums["impossible"] == 0
    assert loss == sums["nll"] == pytest.approx(-np.log(wanted), rel=1e-5)

    def scaled(scale):
        logits = scale * log_p
        logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -np.log(of_all_labellings(logits)[labels])

    assert slope == pytest.approx((scaled(1 + 1e-5) - scaled(1 - 1e-5)) / 2e-5, rel=1e-3, abs=1e-4)


def test_a_row_needs_a_frame_for_each_label_and_between_equal_ones():
    log_p = log_probabilities(3)
    for labels, impossible in (((0, 1, 0), 0), ((0, 0), 0), ((0, 0, 1), 1), ((0, 1, 2, 0), 1)):
        (_, sums), _ = value_and_grad(1.0, batch_of(log_p, labels, frames=3))
        assert sums["impossible"] == impossible, labels


def test_rows_add_up_and_rows_of_zeros_count_nothing():
    rows = [batch_of(log_probabilities(A, 1), (0, 1)), batch_of(log_probabilities(3, 2), (2,), 3)]
    nothing = {name: np.zeros_like(array) for name, array in rows[0].items()}
    (loss, sums), slope = value_and_grad(1.0, of_rows(*rows, nothing))
    apart = [value_and_grad(1.0, row) for row in rows]
    assert loss == pytest.approx(sum(float(one[0][0]) for one in apart), rel=1e-6)
    assert slope == pytest.approx(sum(float(one[1]) for one in apart), rel=1e-5)
    assert sums["weight"] == 3
    (loss, sums), slope = value_and_grad(1.0, nothing)
    assert [float(x) for x in (loss, slope, *sums.values())] == [0.0] * 6


def test_a_row_is_right_when_its_likeliest_alignment_says_its_labels():
    path = [1, 1, 3, 1, 0]
    log_p = np.log(0.1 + 0.6 * np.eye(V)[path])
    for labels, right in (((1, 1, 0), 3), ((1, 0), 0), ((1, 1, 0, 0), 0), ((1, 1), 0)):
        (_, sums), _ = value_and_grad(1.0, batch_of(log_p, labels))
        assert sums["correct"] == right, labels
    assert decoding.best_path(log_p).tolist() == [1, 1, 0]
    assert decoding.best_path(log_p[:0]).tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_a_search_with_room_for_all_finds_every_labelling_and_its_probability(seed):
    log_p = log_probabilities(4, seed)
    wanted = of_all_labellings(log_p)
    found = decoding.search(log_p, num_beams=1000)
    assert len(found) == len(wanted)
    for labels, score in found:
        assert score == pytest.approx(np.log(wanted[tuple(labels.tolist())]), rel=1e-9)
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)


def test_a_narrow_search_finds_likelier_labels_than_the_best_path():
    """Graves et al. 2006: 0.6 x 0.6 for nothing is less than all that says the label."""
    log_p = np.log(np.array([[0.4, 1e-9, 1e-9, 0.6], [0.4, 1e-9, 1e-9, 0.6]]))
    assert decoding.best_path(log_p).tolist() == []
    labels, score = decoding.search(log_p, num_beams=2)[0]
    assert labels.tolist() == [0]
    assert np.exp(score) == pytest.approx(0.64, rel=1e-6)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_labels_belong_to_their_row_and_padding_is_never_said(num_beams):
    model, batch = make("speech_encoder"), sounds(5, 3)
    del batch["rows"]
    how = dict(vocab=9, num_beams=num_beams)
    whole = decoding.transcribe(model, params("speech_encoder"), batch, **how)
    parts = decoding.transcribe(model, params("speech_encoder"), batch, rows=2, multiple=2, **how)
    assert [labels[0].tolist() for labels in whole] == [labels[0].tolist() for labels in parts]
    assert any(len(labels[0]) for labels in whole)
    assert all((labels[0] < 9).all() for labels in whole)


def test_more_labellings_than_are_searched_for_are_refused():
    with pytest.raises(config.InputError, match="num_return_sequences=2"):
        decoding.transcribe(make("speech_encoder"), {}, sounds(1, 0), num_return_sequences=2)


def test_a_model_without_logits_of_frames_is_refused():
    model = make("speech")
    batch = {"audio": np.zeros((1, 4, 5), np.float32), "tokens": np.zeros((1, 2), np.int32)}
    batch |= {"targets": batch["tokens"]}
    with pytest.raises(config.InputError, match="no logits of frames"):
        objectives.OBJECTIVES["ctc"](model)(params("speech"), batch, None)


def test_a_sound_of_that_many_frames_and_a_padded_one_say_the_same():
    model, batch = speech_encoder.make(vocab=5, mels=5, frames=12, width=8, heads=2), sounds(1, 1)
    batch["audio_segments"][:] = np.arange(12) < 7
    made = jax.jit(model.init)(jax.random.key(0), model.example)
    made = jax.tree.map(lambda box: box.value, made, is_leaf=lambda x: hasattr(x, "names"))
    found = model.apply(made, batch)
    alone = model.apply(made, {"audio": batch["audio"][:, :7]})
    assert found["frame_segments"].tolist() == [[1, 1, 1, 1, 0, 0]]
    for name in ("hidden", "frame_logits"):
        np.testing.assert_allclose(found[name][:, :4], alone[name], rtol=2e-2, atol=2e-2)

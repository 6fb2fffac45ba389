"""Losses of the next item among very many, and how well the true one is ranked."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel import config, shares
from bigmodel.objectives import negatives as sampling
from bigmodel.objectives import tokens
from bigmodel.objectives.contract import NEVER, Objective, Sums, rngs, weights_of

LOSSES = ("softmax", "sampled", "binary")
TOP = 10  # hit rate and NDCG ask for the first ten


def next_item(
    model: Any,
    *,
    loss: str = "softmax",
    negatives: int = 1,
    draw: str = "uniform",
    items: int = 0,
    chunk: int = 0,
) -> Objective:
    """The loss of each target item, summed over weights; with s_v the logit of item v:

        softmax   log sum_v exp s_v - s_target, over all items
        sampled   log (exp s_target + sum_n exp s_n / (N q_n)) - s_target
        binary    -log sigmoid(s_target) - sum_n log sigmoid(-s_n)

    where n are N items drawn by probability q. What the second takes for the softmax's sum is right
    in the mean (Bengio and Senecal 2008; Jean et al. 2015, arXiv:1412.2007): a draw of the target
    itself counts nothing, as the target stands there already. The third is that of Kang and McAuley
    2018 (arXiv:1808.09781), eq. 7, with one negative. Only "softmax" makes logits of all items, in
    chunks of the length; BERT4Rec (Sun et al. 2019, arXiv:1904.06690) weighs masked items alone.

    In evaluation (no rng), besides, where the target stands among all items, those of the history
    among them: `hit_rate_10` (it is one of the first ten) and `ndcg_10` (1 / log2(1 + rank) if it
    is), a tie against it; and among the batch's `negatives` alone, if it has some:
    `sampled_hit_rate_10` and `sampled_ndcg_10`. Krichene and Rendle 2020, "On Sampled Metrics for
    Item Recommendation", say why to trust the former.

    Args:
        model: a handle (models/handle.py), with `score` unless the loss is "softmax".
        loss: a name of LOSSES.
        negatives: N; the batch's `negatives` [B, T, N or more] if it has some, which were drawn
            uniformly (data/interactions.py); else drawn here, of items that the row may have had.
        draw: how those are drawn, a name of `negatives.DRAWS`: "uniform", or "log_uniform", which
            wants items numbered from the most frequent one on.
        items: they are 1 to this; 0: all of the vocabulary but 0, which is padding.
        chunk: positions of the length whose logits exist at one time; 0: as
            `tokens.chunk_length` says for the rows of one device.

    Returns:
        An objective whose sums are `weight`, `correct` (the target is above all others of its
        loss), for "softmax" `nll`, and in evaluation the ranks' figures.
    """
    for name, value, allowed in (("loss", loss, LOSSES), ("draw", draw, tuple(sampling.DRAWS))):
        config.known(f"objective.{name}", value, allowed)
    if negatives < 1:
        raise config.InputError(f"objective.negatives = {negatives}: must be at least 1.")

    def objective(params, batch, rng):
        hidden = model.apply(params, batch, rngs=rngs(rng))["hidden"]
        head, targets = model.head(params), batch["targets"]
        weights = weights_of(batch, targets.shape)
        own = shares.of(*targets.shape)
        rows, length = targets.shape[0] // own.row_parts, targets.shape[1] // own.length_parts
        vocab = jax.eval_shape(model.unembed, head, hidden).shape[-1]
        known = among(items, vocab)
        how, of_position, ids = of_all(model, known), vocab, targets
        if loss != "softmax":
            # Those of an evaluation's batch are for ranks alone.
            given = "negatives" in batch and rng is not None
            source = batch if given else without(batch)
            others = given_or_drawn(source, rng, draw=draw, number=negatives, items=known)
            ids = jnp.concatenate([targets[..., None], others], -1)
            chosen = "uniform" if given else draw
            how = OF_SOME[loss](model, sampling.DRAWS[chosen][1], known)
            of_position = ids.shape[-1] * hidden.shape[-1]
        # What recipes choose is for logits of all items; of some there is an embedding for each.
        fits = own.length_parts * tokens.chunk_length(rows, length, of_position)
        fits = min(chunk or fits, fits if loss != "softmax" else targets.shape[1])
        with jax.named_scope("loss"):
            total, sums = tokens.in_chunks(how, fits, head, hidden, ids, weights)
        sums = sums | {"weight": weights.sum()}
        if rng is None:
            still = jax.lax.stop_gradient((head, hidden))
            sums |= ranking(model, *still, batch | {"weights": weights}, known)
        return total, sums

    return objective


def without(batch: dict) -> dict:
    return {name: array for name, array in batch.items() if name != "negatives"}


def among(items: int, vocab: int) -> int:
    """How many items there are, of those that the table has rows for."""
    if items >= vocab:
        raise config.InputError(
            f"objective.items = {items}: with padding they are more than model.vocab = {vocab}; "
            f"allowed are 0 (all but padding) to {vocab - 1}."
        )
    return items or vocab - 1


def given_or_drawn(batch: dict, rng: jax.Array | None, *, draw: str, number: int, items: int):
    """int32 [B, T, N]: the batch's own, or drawn; in evaluation the same for a row each time."""
    B, T = batch["targets"].shape
    if "negatives" in batch:
        found = batch["negatives"]
        if found.shape[-1] < number:
            raise config.InputError(
                f"objective.negatives = {number}: the data gives {found.shape[-1]} for each "
                f"position (data.negatives); allowed are 1 to {found.shape[-1]}."
            )
        return found[..., :number]
    rows = batch.get("rows", jnp.arange(B))
    indices = jnp.broadcast_to(batch.get("indices", jnp.arange(T)[None]), (B, T))
    key = jax.random.key(0) if rng is None else rng
    return sampling.drawn(key, draw, number=number, items=items, rows=rows, indices=indices)


def of_all(model: Any, items: int) -> Callable:
    """Of a chunk for `tokens.in_chunks`: cross entropy among all items."""

    def of_chunk(head, hidden, targets, weights):
        logits = of_items(model.unembed(head, hidden), items)
        terms = tokens.cross_entropy(logits, targets, z_loss=0.0, label_smoothing=0.0)
        terms = {name: jnp.sum(term * weights) for name, term in terms.items()}
        return terms.pop("loss"), terms

    return of_chunk


def of_items(logits: jax.Array, items: int) -> jax.Array:
    """The logits, those of padding and of what comes after the items taken out."""
    number = jnp.arange(logits.shape[-1])
    return jnp.where((number > 0) & (number <= items), logits, NEVER)


def sampled_softmax(model: Any, log_q: Callable, items: int) -> Callable:
    """Of a chunk, `ids` [B, T, 1 + N] the target first: its loss against N that were drawn."""

    def of_chunk(head, hidden, ids, weights):
        scores, N = model.score(head, hidden, ids), ids.shape[-1] - 1
        true, others = scores[..., 0], ids[..., 1:]
        corrected = scores[..., 1:] - jnp.log(N) - log_q(others, items)
        corrected = jnp.where(others == ids[..., :1], NEVER, corrected)
        both = jnp.concatenate([true[..., None], corrected], -1)
        nll = jax.nn.logsumexp(both, -1) - true
        return jnp.sum(nll * weights), {"correct": above(scores, ids, weights)}

    return of_chunk


def binary(model: Any, log_q: Callable, items: int) -> Callable:
    """Of a chunk, `ids` [B, T, 1 + N] the target first: is it the one, and are the others not."""
    del log_q, items

    def of_chunk(head, hidden, ids, weights):
        scores = model.score(head, hidden, ids)
        real = ids[..., 1:] != ids[..., :1]
        others = jnp.where(real, jax.nn.softplus(scores[..., 1:]), 0.0).sum(-1)
        loss = jax.nn.softplus(-scores[..., 0]) + others
        return jnp.sum(loss * weights), {"correct": above(scores, ids, weights)}

    return of_chunk


OF_SOME = {"sampled": sampled_softmax, "binary": binary}


def above(scores: jax.Array, ids: jax.Array, weights: jax.Array) -> jax.Array:
    """How many targets [..., 0] score above all others."""
    beaten = (scores[..., 1:] < scores[..., :1]) | (ids[..., 1:] == ids[..., :1])
    return jnp.sum(beaten.all(-1) * weights)


def ranking(model: Any, head: Any, hidden: jax.Array, batch: dict, items: int) -> Sums:
    """Sums of hit rate and NDCG, a position at a time; positions that count nowhere cost nothing.

    Of a history only its last position counts, and all items' logits are much.
    """
    targets, weights = batch["targets"], batch["weights"]
    arrays = [hidden, targets, weights]
    arrays += [batch["negatives"]] if "negatives" in batch else []

    def of_chunk(hidden, targets, weights, *negatives):
        sums = of_rank(ranked(of_items(model.unembed(head, hidden), items), targets), weights)
        if negatives:
            scores = model.score(head, hidden, jnp.append(targets[..., None], negatives[0], -1))
            rank = (~(scores[..., 1:] < scores[..., :1])).sum(-1)
            sums |= {f"sampled_{name}": value for name, value in of_rank(rank, weights).items()}
        return sums

    chunks = tokens.cut(shares.of(*targets.shape).length_parts, *arrays)
    zeros = tokens.zeros_of(of_chunk, *(x[0] for x in chunks))

    def step(total, chunk):
        asked = (chunk[2] != 0).any()
        found = jax.lax.cond(asked, of_chunk, lambda *_: zeros, *chunk)
        return jax.tree.map(jnp.add, total, found), None

    return jax.lax.scan(step, zeros, chunks)[0]


def ranked(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """How many stand above the target or beside it.  [..., V], int [...] -> int [...]"""
    hit = jnp.arange(logits.shape[-1]) == targets[..., None]
    at_target = jnp.where(hit, logits, 0.0).sum(-1, keepdims=True)
    # Not "greater": NaN stands above everything, and a model of zeros knows nothing.
    return (~(logits < at_target)).sum(-1) - 1


def ranks(model: Any, params: Any, batch: dict, items: int = 0) -> jax.Array:
    """`ranked` of each target among all items, 0 at positions without a weight.  int [B, T]

    Args:
        model: a handle (models/handle.py).
        params: its parameters.
        batch: with `targets` and `weights` [B, T].
        items: as of `next_item`.
    """
    hidden, head = model.apply(params, batch)["hidden"], model.head(params)
    known = among(items, jax.eval_shape(model.unembed, head, hidden).shape[-1])

    def of_chunk(hidden, targets):
        return ranked(of_items(model.unembed(head, hidden), known), targets)

    def step(chunk):
        *args, weights = chunk
        asked = (weights != 0).any()
        return jax.lax.cond(asked, of_chunk, lambda *_: jnp.zeros(weights.shape, int), *args)

    targets, weights = batch["targets"], batch["weights"]
    chunks = tokens.cut(shares.of(*targets.shape).length_parts, hidden, targets, weights)
    return tokens.joined(jax.lax.map(step, chunks), targets.shape[1])


def of_rank(rank: jax.Array, weights: jax.Array) -> Sums:
    """Sums over targets of which `rank` items stand above each."""
    hit = (rank < TOP) * weights
    gain = hit / jnp.log2(2.0 + rank)
    return {f"hit_rate_{TOP}": hit.sum(), f"ndcg_{TOP}": gain.sum()}

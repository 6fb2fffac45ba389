"""Losses of tokens: cross entropy in chunks of the length; no array of all logits exists."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel import config, shares
from bigmodel.objectives.contract import Objective, Sums, rngs, weights_of


def next_token(
    model: Any,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    balance_loss: float = 0.0,
    router_z_loss: float = 0.0,
    chunk: int = 0,
) -> Objective:
    """Cross entropy of each token given those before it, summed over weights.

    loss = w [ (1 - e) nll + e mean_v(-log p_v) + z log(Z)^2 ], where nll = log Z - logit[target].

    Label smoothing e: Szegedy et al. 2016 (arXiv:1512.00567), section 7; z-loss: Chowdhery et al.
    2022, PaLM (arXiv:2204.02311), section 5.

    Args:
        model: a handle (models/handle.py).
        z_loss: z, keeps log Z near zero.
        label_smoothing: e.
        balance_loss: of a mixture of experts, what an uneven load costs (layers/router.py).
        router_z_loss: keeps the router's log Z near zero (Zoph et al. 2022, arXiv:2202.08906).
        chunk: positions of the length whose logits exist at one time; 0: as `chunk_length`
            says for the rows of one device.

    Returns:
        An objective whose sums are `weight`, `nll` (nats, without e and z) and `correct`, and of a
        mixture of experts its `losses` and `stats` (layers/router.py).
    """

    def objective(params, batch, rng):
        outputs = model.apply(params, batch, rngs=rngs(rng))
        terms = dict(z_loss=z_loss, label_smoothing=label_smoothing)
        loss, sums = of_targets(model, params, outputs["hidden"], batch, chunk=chunk, **terms)
        routing = outputs.get("losses", {})
        prices = {"balance": balance_loss, "router_z": router_z_loss, "steering": 1.0}
        loss += sum(prices[name] * value for name, value in routing.items())
        routing = {name: value for name, value in routing.items() if name != "steering"}
        return loss, sums | routing | outputs.get("stats", {})

    return objective


def masked_token(
    model: Any,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    sentence_loss: float = 1.0,
    chunk: int = 0,
) -> Objective:
    """Cross entropy of the tokens that were masked, those with a weight; and of the next sentence.

    Devlin et al. 2019 (arXiv:1810.04805), section 3.1 and appendix A.2. That of the sentence
    is there where the batch has `labels` [B] (0: the second text follows the first, 1: it does
    not) and the model `sentence_logits`. A loss is one sum over one weight: so a row's sentence
    counts as often as the row has masked tokens, by their weights, and with as many in all rows
    the whole is the sum of both means, as published. Rows without a weight count nothing.

    Args:
        model: a handle (models/handle.py).
        z_loss: see `next_token`.
        label_smoothing: see `next_token`.
        sentence_loss: what the loss of sentences is multiplied by.
        chunk: see `next_token`.

    Returns:
        An objective whose sums are `weight`, `nll` and `correct` of masked tokens, and of sentences
        `sentence_nll` and `sentence_correct`, over the same weight.
    """

    def objective(params, batch, rng):
        outputs = model.apply(params, batch, rngs=rngs(rng))
        terms = dict(z_loss=z_loss, label_smoothing=label_smoothing)
        loss, sums = of_targets(model, params, outputs["hidden"], batch, chunk=chunk, **terms)
        if "sentence_logits" in outputs and "labels" in batch:
            logits = outputs["sentence_logits"].astype(jnp.float32)
            found = cross_entropy(logits, batch["labels"], z_loss=0.0, label_smoothing=0.0)
            of_rows = weights_of(batch, batch["targets"].shape).sum(-1)
            sentences = {name: (term * of_rows).sum() for name, term in found.items()}
            loss += sentence_loss * sentences.pop("loss")
            sums |= {f"sentence_{name}": value for name, value in sentences.items()}
        return loss, sums

    return objective


def label_tokens(model: Any, *, label_smoothing: float = 0.0) -> Objective:
    """Cross entropy of each token's class, given `token_logits` [B, T, N].

    Devlin et al. 2019 (arXiv:1810.04805), section 5.3: only the first token of a word has a weight.

    Args:
        model: a handle (models/handle.py).
        label_smoothing: see `next_token`.

    Returns:
        An objective whose sums are `weight`, `nll` and `correct`.
    """

    def objective(params, batch, rng):
        outputs = model.apply(params, batch, rngs=rngs(rng))
        if "token_logits" not in outputs:
            raise config.InputError(
                "objective label_tokens: the model gives no logits of tokens' classes; allowed is "
                "one that does, such as an encoder with model.token_classes = 1 or more."
            )
        logits = outputs["token_logits"]
        weights = weights_of(batch, batch["targets"].shape)
        how = dict(z_loss=0.0, label_smoothing=label_smoothing)
        terms = cross_entropy(logits.astype(jnp.float32), batch["targets"], **how)
        sums = {name: (term * weights).sum() for name, term in terms.items()}
        return sums.pop("loss"), sums | {"weight": weights.sum()}

    return objective


def of_targets(
    model: Any,
    params: Any,
    hidden: jax.Array,
    batch: dict[str, jax.Array],
    *,
    z_loss: float,
    label_smoothing: float,
    chunk: int,
) -> tuple[jax.Array, Sums]:
    """Cross entropy of a batch's targets given hidden vectors [B, T, D], in chunks."""
    targets, weights = batch["targets"], weights_of(batch, batch["targets"].shape)
    head = model.head(params)

    def of_chunk(head, hidden, targets, weights):
        logits = model.unembed(head, hidden)
        terms = cross_entropy(logits, targets, z_loss=z_loss, label_smoothing=label_smoothing)
        terms = {name: jnp.sum(term * weights) for name, term in terms.items()}
        return terms.pop("loss"), terms

    vocab = jax.eval_shape(model.unembed, head, hidden).shape[-1]
    rows, positions = targets.shape
    length = chunk or chunk_length(rows, positions, vocab)
    with jax.named_scope("loss"):
        loss, sums = in_chunks(of_chunk, length, head, hidden, targets, weights)
    return loss, sums | {"weight": weights.sum()}


def cross_entropy(
    logits: jax.Array, targets: jax.Array, *, z_loss: float, label_smoothing: float
) -> dict[str, jax.Array]:
    """The terms of a token loss.  float32 [..., V], int [...] -> each float32 [...]"""
    top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    log_z = jnp.log(jnp.exp(logits - top).sum(-1)) + top[..., 0]
    # A comparison, not a gather: its gradient is no scatter, and it works on a vocabulary that is
    # cut over the mesh without bringing it together.
    hit = jnp.arange(logits.shape[-1]) == targets[..., None]
    at_target = jnp.where(hit, logits, 0.0).sum(-1)
    nll = log_z - at_target
    loss = nll
    if label_smoothing:
        loss = (1 - label_smoothing) * nll + label_smoothing * (log_z - logits.mean(-1))
    if z_loss:
        loss = loss + z_loss * jnp.square(log_z)
    return {"loss": loss, "nll": nll, "correct": (at_target >= top[..., 0]).astype(jnp.float32)}


# Most logits of a chunk. Each chunk reads and writes the head's gradient, so few positions cost
# time: 2**25 cost 5 % of a step of Llama 8B on v6e, by the plan.
LOGITS, LOGITS_ON_CPU = 2**27, 2**25


def chunk_length(batch: int, length: int, vocab: int, most: int = LOGITS_ON_CPU) -> int:
    """Positions a chunk: at least four chunks, and at most `most` logits in one.

    Down to half of that, what leaves the last chunk fullest: what it lacks is computed all the same
    (5 chunks of 256 positions would be 6 of 51, a fifth more than the loss needs).
    """
    chunks = max(4, -(-batch * length * vocab // most))
    longest = max(1, length // chunks)
    return min(range(longest, longest // 2, -1), key=lambda size: -length % size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def in_chunks(of_chunk, length, head, hidden, targets, weights) -> tuple[jax.Array, Sums]:
    """Sums `of_chunk` over chunks of the length: no array of all logits exists at any time.

    Its gradient is computed on the way forward, chunk by chunk, while the logits are there (the
    loss is a scalar, so all that comes from behind is one factor): nothing is computed twice, and
    what is kept is as large as `hidden` and `head`. Only the loss is differentiable, not the sums.

    Devices add up the head's gradient of their own tokens; after the last chunk all are summed.

    Args:
        of_chunk: (head, hidden, targets, weights) of a chunk -> (loss, sums).
        length: positions in a chunk, over all devices that have some.
        head: what `of_chunk` reads besides.
        hidden: [B, T, D].
        targets: int [B, T].
        weights: float32 [B, T].
    """

    def step(total, chunk):
        return jax.tree.map(jnp.add, total, of_chunk(head, *chunk)), None

    chunks = cut(length, hidden, targets, weights)
    zeros = zeros_of(of_chunk, head, *jax.tree.map(lambda x: x[0], chunks))
    return jax.lax.scan(step, zeros, chunks)[0]


def in_chunks_forward(of_chunk, length, head, hidden, targets, weights):
    own = shares.of(hidden.shape[0], length)
    gradient = jax.value_and_grad(of_chunk, argnums=(0, 1), has_aux=True)
    gradient = own.each(gradient, (None, 0, 0, 0))

    def step(carry, chunk):
        total, head_grads = carry
        value, (head_grad, hidden_grad) = gradient(head, *chunk)
        total = jax.tree.map(jnp.add, total, value)
        return (total, jax.tree.map(jnp.add, head_grads, head_grad)), hidden_grad

    chunks = [own.cut(x, axis=1) for x in cut(length, hidden, targets, weights)]
    zeros = zeros_of(gradient, head, *(x[0] for x in chunks))[0]
    head_grads = jax.tree.map(lambda x: jnp.zeros((own.number, *x.shape), jnp.float32), head)
    (total, head_grads), hidden_grads = jax.lax.scan(step, (zeros, head_grads), chunks)
    head_grads = jax.tree.map(lambda g, x: shares.total(g, x.dtype), head_grads, head)
    hidden_grads = joined(own.joined(hidden_grads, axis=1), hidden.shape[1])
    # Summed before any layer's gradient: until then the shares take the room of a head in float32.
    grads = jax.lax.optimization_barrier((head_grads, hidden_grads))
    return jax.tree.map(lambda x: x.sum(0), total), grads


def in_chunks_backward(of_chunk, length, grads, cotangents):
    factor, _ = cotangents
    head, hidden = jax.tree.map(lambda g: (g * factor).astype(g.dtype), grads)
    return head, hidden, None, None


in_chunks.defvjp(in_chunks_forward, in_chunks_backward)


def cut(length: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """[B, T, ...] -> [chunks, B, length, ...], zeros (no weight) after the end.

    Chunk i holds the positions i, i + chunks, i + 2 chunks, ...: of a length that is cut over the
    mesh each device has its share of every chunk, and moves nothing.
    """

    def one(x):
        chunks = -(-x.shape[1] // length)
        padding = [(0, 0), (0, chunks * length - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding).reshape(x.shape[0], length, chunks, *x.shape[2:])
        return jnp.moveaxis(x, 2, 0)

    return tuple(map(one, arrays))


def joined(chunks: jax.Array, length: int) -> jax.Array:
    """The inverse of `cut`: [chunks, B, length, ...] -> [B, T, ...]."""
    whole = jnp.moveaxis(chunks, 0, 2)
    return whole.reshape(whole.shape[0], -1, *whole.shape[3:])[:, :length]


def zeros_of(function, *args):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *args))

"""The optimizers of the table: `f(learning_rate, axes, *, fields) -> optax.GradientTransformation`.

What they share: weight decay is decoupled and times the learning rate (Loshchilov and Hutter 2017,
arXiv:1711.05101, as PyTorch and optax have it) except in `sgd`, and it reaches the parameters whose
own name, the end of the path, is in `decayed`. By default those are the kernels and the embedding
tables. A norm's scale and a bias are never named so, however many dimensions stacking gives them.
"""

import optax

from bigmodel import trees
from bigmodel.optimizers import matrices

DECAYED = ("kernel", "table")


def sgd(
    learning_rate: optax.Schedule,
    axes: optax.Params,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decayed: tuple[str, ...] = DECAYED,
) -> optax.GradientTransformation:
    """Gradient descent with momentum; `weight_decay` is an L2 penalty's gradient, inside it."""
    del axes
    return optax.chain(
        optax.add_decayed_weights(weight_decay, _named(decayed)),
        optax.sgd(learning_rate, momentum or None, nesterov),
    )


def adam(
    learning_rate: optax.Schedule,
    axes: optax.Params,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    mu_dtype: str = "float32",
) -> optax.GradientTransformation:
    """Kingma and Ba 2014 (arXiv:1412.6980), without weight decay."""
    del axes
    return optax.adam(learning_rate, b1, b2, eps, mu_dtype=mu_dtype)


def adamw(
    learning_rate: optax.Schedule,
    axes: optax.Params,
    *,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    decayed: tuple[str, ...] = DECAYED,
    mu_dtype: str = "float32",
) -> optax.GradientTransformation:
    """Loshchilov and Hutter 2017 (arXiv:1711.05101); b2 and decay as in GPT-3 and Llama."""
    del axes
    return optax.adamw(
        learning_rate,
        b1,
        b2,
        eps,
        mu_dtype=mu_dtype,
        weight_decay=weight_decay,
        mask=_named(decayed),
    )


def adafactor(
    learning_rate: optax.Schedule,
    axes: optax.Params,
    *,
    decay_rate: float = 0.8,
    clipping_threshold: float = 1.0,
    multiply_by_parameter_scale: bool = True,
    min_dim_size_to_factor: int = 128,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    decayed: tuple[str, ...] = DECAYED,
) -> optax.GradientTransformation:
    """Second moments as row and column means.  Shazeer and Stern 2018 (arXiv:1804.04235).

    Rows and columns are those of one layer's matrix (`matrices.per_matrix`): [layers, embed, heads,
    head_dim] keeps [layers, embed] and [layers, heads * head_dim]. optax alone takes the two
    largest dimensions of the stack, which may be the layers, and its two scalings by a root mean
    square go over all layers at once. Taking the two largest of [embed, heads, head_dim] would
    leave the attention of GPT-2, 12 heads of 64, unfactored.

    Args:
        learning_rate: relative to each matrix's root mean square if `multiply_by_parameter_scale`,
            so some ten times Adam's.
        axes: see `make`.
        decay_rate: the second moments' decay at step t is 1 - t^-decay_rate.
        clipping_threshold: largest root mean square of a matrix's update before the rate.
        multiply_by_parameter_scale: whether the rate is relative.
        min_dim_size_to_factor: a matrix with a shorter side keeps its second moments whole.
        momentum: decay of an average over updates; 0 keeps none, and no memory for it.
        weight_decay: times the learning rate as in `adamw`, never times the parameter's scale.
        decayed: see above.
    """
    scaled = optax.adafactor(
        learning_rate,
        min_dim_size_to_factor=min_dim_size_to_factor,
        decay_rate=decay_rate,
        clipping_threshold=clipping_threshold,
        multiply_by_parameter_scale=multiply_by_parameter_scale,
    )
    # Momentum and decay work element by element: outside, their state has the parameters' shape.
    return optax.chain(
        matrices.per_matrix(scaled, axes),
        optax.ema(momentum, debias=False) if momentum else optax.identity(),
        optax.add_decayed_weights(
            lambda step: -weight_decay * learning_rate(step), _named(decayed)
        ),
    )


def lion(
    learning_rate: optax.Schedule,
    axes: optax.Params,
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: float = 0.1,
    decayed: tuple[str, ...] = DECAYED,
    mu_dtype: str = "float32",
) -> optax.GradientTransformation:
    """The sign of a momentum.  Chen et al. 2023 (arXiv:2302.06675).

    Every element moves by the whole rate: take 3 to 10 times less than AdamW's, and as much more
    decay (section 5 of the paper).
    """
    del axes
    return optax.lion(
        learning_rate, b1, b2, mu_dtype=mu_dtype, weight_decay=weight_decay, mask=_named(decayed)
    )


def muon(
    learning_rate: optax.Schedule,
    axes: optax.Params,
    *,
    beta: float = 0.95,
    newton_schulz: int = 5,
    rms: float = 0.2,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    decayed: tuple[str, ...] = DECAYED,
    mu_dtype: str = "float32",
) -> optax.GradientTransformation:
    """Orthogonalised momentum for the hidden matrices, AdamW for the rest.

    Jordan et al. 2024, "Muon"; Liu et al. 2025 (arXiv:2502.16982) for decay and scale. Hidden
    matrices are the kernels in a stack of layers (`matrices.hidden_matrices`); embeddings, the
    head, norms and biases go to `adamw`.

    Args:
        learning_rate: one for both kinds; see `rms`.
        axes: see `make`.
        beta: decay of the momentum, Nesterov's form.
        newton_schulz: steps of the iteration that orthogonalises.
        rms: root mean square of a matrix's update before the rate; 0.2 is about AdamW's (eq. 4).
        b1, b2, eps: AdamW's.
        weight_decay, decayed: see above; for both kinds.
        mu_dtype: dtype of the momenta.
    """
    hidden = matrices.hidden_matrices(axes)
    orthogonal = optax.contrib.muon(
        learning_rate,
        ns_steps=newton_schulz,
        beta=beta,
        weight_decay=weight_decay,
        weight_decay_mask=_named(decayed),
        mu_dtype=mu_dtype,
        muon_weight_dimension_numbers=hidden,
        consistent_rms=rms,
    )
    # muon's own Adam for the rest is Nesterov's and decays norms, hence this one.
    rest = adamw(
        learning_rate,
        axes,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        decayed=decayed,
        mu_dtype=mu_dtype,
    )
    return optax.partition({"muon": orthogonal, "adamw": rest}, matrices.labels(hidden))


def schedule_free_adamw(
    learning_rate: optax.Schedule,
    axes: optax.Params,
    *,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    decayed: tuple[str, ...] = DECAYED,
) -> optax.GradientTransformation:
    """AdamW with an average of the iterates in place of a falling rate.

    Defazio et al. 2024 (arXiv:2405.15682), algorithm 1. Wants the schedule "constant", with a
    warmup, and float32 parameters: the average is worked out from them at each step. Evaluate with
    `eval_params`.
    """
    del axes
    without_momentum = optax.chain(
        optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(weight_decay, _named(decayed)),
        optax.scale_by_learning_rate(learning_rate),
    )
    return optax.contrib.schedule_free(without_momentum, learning_rate, b1)


def _named(names: tuple[str, ...]):
    """A mask over parameters: True where the path ends in one of the names."""

    def mask(params):
        return trees.map_with_path(lambda path, _: path.split("/")[-1] in names, params)

    return mask

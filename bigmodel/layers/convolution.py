"""Convolution along the length, as products with windows of it; the stem that sound goes in by."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel.layers.feedforward import gelu
from bigmodel.layers.linear import Einsum, Initializer

TAPS = 3  # of the stem's convolutions


class Stem(nn.Module):
    """Frames of sound to vectors, half as many.  [B, A, M] -> [B, ceil(A / 2), D]

    Radford et al. 2022 (arXiv:2212.04356), section 2.2: two convolutions of 3 taps, the second at
    every other frame, a GELU after each. Frames that are no sound are zeros to both, as those are
    that lie outside of the array: they change nothing, whatever they hold.

    Attributes:
        width: D.
        initializer: of the kernels; None: by fan-in.
        dtype: dtype of the arithmetic.
        param_dtype: dtype of the parameters.
        einsum: see `Einsum`.
    """

    width: int
    initializer: Initializer | None = None
    dtype: jnp.dtype = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float32
    einsum: Callable[..., jax.Array] = jnp.einsum

    @nn.compact
    def __call__(self, audio: jax.Array, sound: jax.Array | None) -> jax.Array:
        """The vectors; `sound` is bool [B, A], None: all frames are."""

        def heard(x: jax.Array) -> jax.Array:
            return x if sound is None else jnp.where(sound[..., None], x, jnp.zeros_like(x))

        def convolution(name: str, x: jax.Array, axes: tuple[str, str], bias: str) -> Einsum:
            return Einsum(
                equation="BTKC,KCD->BTD",
                shape=(TAPS, x.shape[-1], self.width),
                axes=("patch", *axes),
                initializer=self.initializer,
                bias_axes=(bias,),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                einsum=self.einsum,
                name=name,
            )

        # Over a mesh as a feed-forward layer is: the first by its columns, the second by its rows.
        x = heard(audio.astype(self.dtype))
        x = gelu(convolution("first", x, ("frequencies", "mlp"), "mlp")(windows(x, TAPS)))
        x = heard(nn.with_logical_constraint(x, ("batch", "length", "act_mlp")))
        return gelu(convolution("second", x, ("mlp", "embed"), "norm")(windows(x, TAPS, 2)))


def windows(x: jax.Array, taps: int, stride: int = 1) -> jax.Array:
    """What a convolution sees at each place: taps around it, zeros outside of the array.

    A product with a kernel [K, C, D] is then the convolution, and its gradients are products too.
    [B, T, C] -> [B, ceil(T / stride), K, C], where window i is around x[stride i].

    Args:
        x: [B, T, C].
        taps: K, odd.
        stride: places from one window to the next.
    """
    T, aside = x.shape[1], taps // 2
    padded = jnp.pad(x, ((0, 0), (aside, aside), (0, 0)))
    return jnp.stack([padded[:, k : k + T : stride] for k in range(taps)], axis=2)

"""Where a token stands: rotary angles and sinusoidal vectors."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary position embedding: pairs (x_i, x_{i + C/2}) turned by position * theta^(-2i/C).

    Su et al. 2021, "RoFormer" (arXiv:2104.09864), eq. 34, in the half-split order of pairs.

    Attributes:
        theta: base of the wavelengths.
        factor: all wavelengths longer by this (linear interpolation, Chen et al. 2023,
            arXiv:2306.15595), or with `original_length` only the long ones.
        original_length: 0, or the length that Llama 3.1 was pretrained at: wavelengths above
            original_length / low are stretched, those below original_length / high are kept, and
            those between are blended (Grattafiori et al. 2024, arXiv:2407.21783).
        low: see `original_length`.
        high: see `original_length`.
    """

    theta: float = 10_000.0
    factor: float = 1.0
    original_length: int = 0
    low: float = 1.0
    high: float = 4.0

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Radians per position, float64 [C / 2]."""
        plain = self.theta ** -(np.arange(0, head_dim, 2) / head_dim)
        if not self.original_length:
            return plain / self.factor
        turns = self.original_length * plain / (2 * math.pi)
        keep = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return keep * plain + (1.0 - keep) * plain / self.factor

    def angles(self, positions: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array]:
        """Sine and cosine, float32 [B, T, 1, C / 2], for positions int32 [B, T]."""
        turn = positions[:, :, None, None].astype(jnp.float32)
        turn = turn * jnp.asarray(self.frequencies(head_dim), jnp.float32)
        return jnp.sin(turn), jnp.cos(turn)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns the pairs of each head.  [B, T, H, C] -> [B, T, H, C]"""
    sin, cos = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def sinusoids(positions: jax.Array, width: int, steps: int = 0) -> jax.Array:
    """Sines and cosines of wavelengths 2 pi to 20000 pi.  int [B, T] -> float32 [B, T, D]

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, sines in the first half of the width.

    Args:
        positions: int [B, T].
        width: D.
        steps: from 2 pi to 20000 pi; 0: D / 2, so that the last sine is a step below. With
            D / 2 - 1 it is of 20000 pi, as in Whisper (Radford et al. 2022, arXiv:2212.04356).
    """
    whole = 2 * steps or width
    frequencies = jnp.asarray(10_000.0 ** -(np.arange(0, width, 2) / whole), jnp.float32)
    turn = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.sin(turn), jnp.cos(turn)], axis=-1)[..., :width]


def sinusoids_2d(height: int, width: int, dim: int) -> jax.Array:
    """Of the places of a grid, row by row.  -> float32 [height * width, D]

    He et al. 2022 (arXiv:2111.06377), section 3, and Peebles and Xie 2023 (arXiv:2212.09748),
    section 3.2: half of D (a multiple of 4) for a place's row, half for its column.
    """
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    halves = [sinusoids(axis.reshape(-1), dim // 2) for axis in (rows, columns)]
    return jnp.concatenate(halves, axis=-1)

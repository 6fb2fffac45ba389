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
        factor: how much longer wavelengths become, so that longer texts are read.
        original_length: the length that was pretrained at; for "llama3" and "yarn".
        low: wavelengths above original_length / low, which turn fewer times than that in the
            pretrained length, are stretched; for "llama3" and "yarn".
        high: those below original_length / high are kept, and those between are blended.
        scaling: a name of SCALINGS; "": "llama3" where there is an `original_length`, or "linear".
        attention_factor: what sines and cosines are multiplied by; 0: 1, but in "yarn"
            0.1 ln(factor) + 1.
    """

    theta: float = 10_000.0
    factor: float = 1.0
    original_length: int = 0
    low: float = 1.0
    high: float = 4.0
    scaling: str = ""
    attention_factor: float = 0.0

    @property
    def kind(self) -> str:
        return self.scaling or ("llama3" if self.original_length else "linear")

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Radians per position, float64 [C / 2]."""
        plain = self.theta ** -(np.arange(0, head_dim, 2) / head_dim)
        return SCALINGS[self.kind](self, plain)

    def angles(self, positions: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array]:
        """Sine and cosine, float32 [B, T, 1, C / 2], for positions int32 [B, T]."""
        turn = positions[:, :, None, None].astype(jnp.float32)
        turn = turn * jnp.asarray(self.frequencies(head_dim), jnp.float32)
        size = self.attention_factor
        if not size and self.kind == "yarn":
            size = 0.1 * math.log(self.factor) + 1  # Peng et al. 2023, section 3.4
        if not size:
            return jnp.sin(turn), jnp.cos(turn)
        return size * jnp.sin(turn), size * jnp.cos(turn)


def linear(of: Rotary, plain: np.ndarray) -> np.ndarray:
    """All wavelengths longer: Chen et al. 2023 (arXiv:2306.15595), eq. 4."""
    return plain / of.factor


def llama3(of: Rotary, plain: np.ndarray) -> np.ndarray:
    """Long wavelengths longer: Grattafiori et al. 2024 (arXiv:2407.21783), and their code."""
    turns = of.original_length * plain / (2 * math.pi)
    keep = np.clip((turns - of.low) / (of.high - of.low), 0.0, 1.0)
    return keep * plain + (1.0 - keep) * plain / of.factor


def ntk(of: Rotary, plain: np.ndarray) -> np.ndarray:
    """The base larger, so that the longest wavelength is `factor` times itself and the shortest
    stays: Peng et al. 2023 (arXiv:2309.00071), definition 1."""
    pairs = len(plain)
    return plain * of.factor ** -(np.arange(pairs) / max(pairs - 1, 1))


def yarn(of: Rotary, plain: np.ndarray) -> np.ndarray:
    """NTK "by parts": Peng et al. 2023 (arXiv:2309.00071), section 3.2; blended evenly over the
    pairs between the two bounds, as in the authors' code, not over their turns."""
    pairs = len(plain)

    def pair_of(turns: float) -> float:
        ratio = of.original_length / (turns * 2 * math.pi)
        return pairs * math.log(ratio) / math.log(of.theta)

    first = max(math.floor(pair_of(of.high)), 0)
    last = min(math.ceil(pair_of(of.low)), 2 * pairs - 1)
    stretch = np.clip((np.arange(pairs) - first) / max(last - first, 1e-3), 0.0, 1.0)
    return (1 - stretch) * plain + stretch * plain / of.factor


SCALINGS = {"linear": linear, "llama3": llama3, "ntk": ntk, "yarn": yarn}


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

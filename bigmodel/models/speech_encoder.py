"""Sound to a distribution over tokens at each moment, as CTC reads it: an encoder and a head."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel.layers import attention, stack
from bigmodel.layers.linear import Einsum, product_in_float32
from bigmodel.models import speech, transformer
from bigmodel.models.handle import Batch, Model, Outputs, Params


class SpeechEncoder(nn.Module):
    """Frames of sound to hidden vectors, and at each moment logits of tokens and of no token.

    float [B, A, M] -> [B, A / 2, D], float32 [B, A / 2, V]

    The encoder of Whisper (`models.speech`) with the output of Graves et al. 2006 (CTC,
    doi:10.1145/1143844.1143891), section 3: the last row of the vocabulary is the blank.

    Attributes:
        vocab: V, the blank counted, which is token V - 1.
        mels: M, numbers of a frame.
        frames: A of the rows that it is made for, even.
        width: D, even.
        layers: how many.
        heads: H.
        hidden: F, of the feed-forward layer; 0: 4 D.
        norm_epsilon: of all norms.
        feedforward: see `models.decoder.Decoder`.
        dropout: rate on embeddings and on what each layer adds.
        attention_dropout: rate on attention's probabilities.
        init_std: standard deviation of kernels; 0: by fan-in.
        dtype: of the arithmetic.
        param_dtype: of the parameters.
        remat: a name of stack.REMAT_POLICIES.
        remat_save: activations kept, for remat "names".
        remat_offload: activations kept in the host's memory, for remat "names".
        scan: whether layers run by scan or unrolled; None: as the platform is quicker.
        attend: the implementation of attention.
        run: what runs the layers where `scan` does not say otherwise.
        einsum: what computes products with kernels; see `linear.Einsum`.
        attention: its name; "auto": the platform's.
    """

    vocab: int = 258
    mels: int = 80
    frames: int = 3000
    width: int = 512
    layers: int = 6
    heads: int = 8
    hidden: int = 0
    norm_epsilon: float = 1e-5
    feedforward: str = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float = 0.0
    dtype: str = "bfloat16"
    param_dtype: str = "float32"
    remat: str = "none"
    remat_save: tuple[str, ...] = ()
    remat_offload: tuple[str, ...] = ()
    scan: bool | None = None
    attend: Callable = attention.reference
    run: Callable = stack.scanned
    einsum: Callable = jnp.einsum
    attention: str = "auto"

    @nn.compact
    def __call__(self, batch: Batch, rngs: dict | None = None) -> Outputs:
        key = (rngs or {}).get("dropout")
        names = dict(name="layers", norm="final_norm")
        x, segments = speech.encode(
            self, batch, key, layers=self.layers, first=0, run=self.run, **names
        )
        x = nn.with_logical_constraint(x, ("batch", "length", "act_embed"))
        head = Einsum(
            "BTD,DV->BTV",
            (self.width, self.vocab),
            ("embed", "vocab"),
            nn.initializers.normal(self.init_std) if self.init_std else None,
            ("vocab",),
            **transformer.dtypes(self),
            einsum=product_in_float32,
            name="head",
        )
        if segments is None:
            segments = jnp.ones(x.shape[:2], jnp.int32)
        # The bias is of the arithmetic's dtype, the sum is not.
        return {"hidden": x, "frame_logits": head(x), "frame_segments": segments}


def make(**fields) -> Model:
    """The handle of an encoder of speech with the fields of `SpeechEncoder`."""
    family = SpeechEncoder(**fields)
    speech.check(family)

    def init(rng: jax.Array, batch: Batch) -> Params:
        return family.init(rng, batch)["params"]

    def apply(params: Params, batch: Batch, rngs=None, cache=None) -> Outputs:
        return family.apply({"params": params}, batch, rngs)

    return Model(init=init, apply=apply, example=speech.sound_of(family))

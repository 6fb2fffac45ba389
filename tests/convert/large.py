"""A process that imports a large folder, and tells its arrays' bytes, a file's, and its peak."""

import json
import math
import pathlib
import re
import sys
from typing import Any

import numpy as np

WIDTH, HIDDEN, VOCAB, FILE = 1024, 4096, 32_000, 2**28


def write(folder: pathlib.Path, layers: int) -> int:
    """A Llama of so many layers in files of at most FILE bytes; -> bytes of its arrays."""
    from bigmodel.convert import tensors

    fields: dict[str, Any] = dict(
        hidden_size=WIDTH, num_hidden_layers=layers, intermediate_size=HIDDEN
    )
    fields |= dict(num_attention_heads=16, num_key_value_heads=8, vocab_size=VOCAB)
    fields |= dict(max_position_embeddings=256, tie_word_embeddings=True)
    fields |= dict(architectures=["LlamaForCausalLM"], model_type="llama")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(fields))
    D, F = WIDTH, HIDDEN
    layer: dict[str, tuple[int, ...]] = {"input_layernorm": (D,), "post_attention_layernorm": (D,)}
    layer |= {f"self_attn.{n}_proj": (D if n in "qo" else D // 2, D) for n in "qkvo"}
    layer |= {"mlp.gate_proj": (F, D), "mlp.up_proj": (F, D), "mlp.down_proj": (D, F)}
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, D),
        "model.norm.weight": (D,),
    }
    for n in range(layers):
        shapes |= {f"model.layers.{n}.{name}.weight": shape for name, shape in layer.items()}
    sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    arrays = ((name, np.full(shape, 0.01, np.float32)) for name, shape in shapes.items())
    tensors.write(folder, sizes, arrays, shard_bytes=FILE)
    return sum(sizes.values())


def main() -> None:
    folder, layers = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    if len(sys.argv) == 3:
        arrays = write(folder / "theirs", layers)
        print(arrays, FILE)
        return
    from bigmodel import weights

    weights.import_hf(folder / "theirs", folder / "run", overrides={"mesh.fsdp": 8})
    status = pathlib.Path("/proc/self/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    print(int(peak[1]) * 1024 if peak else 0)

"""Writes what `transformers` computes of every case: python -m tests.convert.record [NAME ...]

Needs torch and transformers (the extra `parity`); nothing here imports jax.
"""

import functools
import json
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tests.convert import cases

NEW = 8  # tokens that are generated
BEAMS = 3


def model_of(name: str, folder: pathlib.Path, dtype: Any = torch.float32) -> Any:
    """The case's model with the weights of `cases.drawn`, saved in a folder."""
    architecture, fields = cases.CASES[name]
    build = getattr(transformers, architecture)
    model = build(build.config_class(**fields))
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = {key: cases.drawn(key, value.shape) for key, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    how = {"attn_implementation": "eager", "dtype": dtype}
    if "Moe" in architecture or "Mixtral" in architecture:  # torch's own want even shapes
        how["experts_implementation"] = "eager"
    return build.from_pretrained(folder, **how).eval()


def outputs(model: Any) -> dict[str, Any]:
    """What it computes, with the names of ours."""
    kind, config = model.config.model_type, model.config.to_dict()
    given = {key: torch.tensor(value) for key, value in cases.inputs(kind, config).items()}
    tokens = given.get("tokens")
    tokens = None if tokens is None else tokens.long()
    if kind == "t5":
        found = model(input_ids=given["source"].long(), decoder_input_ids=tokens)
        return {"logits": found.logits}
    if kind == "whisper":
        sound = given["audio"].permute(0, 2, 1)
        return {"logits": model(input_features=sound, decoder_input_ids=tokens).logits}
    if kind in ("vit", "clip", "siglip"):
        pixels = given["images"].permute(0, 3, 1, 2)
        if kind == "vit":
            found = model(pixel_values=pixels)
            if hasattr(found, "logits"):
                return {"class_logits": found.logits}
            return {"hidden": found.last_hidden_state}
        found = model(input_ids=tokens, pixel_values=pixels)
        return {"embeddings/image": found.image_embeds, "embeddings/text": found.text_embeds}
    if kind in ("bert", "roberta"):
        types = {"token_type_ids": given["token_types"].long()} if kind == "bert" else {}
        found = model(input_ids=tokens, **types)
        if hasattr(found, "prediction_logits"):
            return {
                "logits": found.prediction_logits,
                "sentence_logits": found.seq_relationship_logits,
            }
        if not hasattr(found, "logits"):
            return {"hidden": found.last_hidden_state, "embeddings/pooled": found.pooler_output}
        names = {2: "class_logits", 3: "logits"}
        name = names[found.logits.dim()]
        labels = type(model).__name__.endswith("TokenClassification")
        return {"token_logits" if labels else name: found.logits}
    return {"logits": model(tokens).logits}


def continued(model: Any) -> dict[str, list[list[int]]]:
    """What it writes of its first input, greedily and with beams; an end is nothing special."""
    kind = model.config.model_type
    if not model.can_generate() or kind in ("bert", "roberta"):
        return {}
    given = {k: torch.tensor(x[:1]) for k, x in cases.inputs(kind, model.config.to_dict()).items()}
    generate = model.generate
    if kind == "whisper":
        ids = given["audio"].permute(0, 2, 1)
        # Its own is a procedure over long sounds, with rules of its tokens.
        generate = functools.partial(transformers.GenerationMixin.generate, model)
        model.generation_config.decoder_start_token_id = 0
    else:
        ids = given["source" if "source" in given else "tokens"].long()
    how = dict(max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, eos_token_id=None)
    # Its cache of a T5 has the encoder's number of layers, also for a deeper decoder.
    how |= dict(pad_token_id=0, use_cache=kind != "t5")
    searching = dict(num_beams=BEAMS, num_return_sequences=BEAMS, length_penalty=0.0)
    start = ids.shape[1] if set(given) <= {"tokens", "token_types"} else 1
    return {
        name: generate(ids, **how, **more)[:, start:].tolist()
        for name, more in (("greedy", {}), ("beams", searching))
    }


def record(name: str, folder: pathlib.Path) -> dict[str, Any]:
    """All that tests need of a case; its folder is left as `transformers` writes it."""
    with torch.no_grad():
        model = model_of(name, folder)
        found = {key: value.numpy() for key, value in outputs(model).items()}
        written = continued(model)
    tensors = load_file(folder / "model.safetensors")
    facts = {
        "config": json.loads((folder / "config.json").read_text()),
        "shapes": {key: list(value.shape) for key, value in tensors.items()},
        **written,
    }
    return {"facts": json.dumps(facts), **found}


def main(names: list[str]) -> None:
    cases.GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in names or cases.CASES:
        with tempfile.TemporaryDirectory() as folder:
            np.savez_compressed(cases.GOLDEN / f"{name}.npz", **record(name, pathlib.Path(folder)))
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])

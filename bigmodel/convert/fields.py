"""What a foreign config.json says, read once and completely."""

import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from bigmodel import config

REQUIRED: Any = object()
# Of a Hugging Face config: what says nothing of how numbers are computed.
# fmt: off
HARMLESS = frozenset([
    "_name_or_path", "architectures", "model_type", "torch_dtype", "dtype",
    "transformers_version", "use_cache", "initializer_range", "initializer_factor", "init_std",
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id",
    "mask_token_id", "unk_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "output_attentions", "output_hidden_states", "return_dict",
    "torchscript", "use_return_dict", "gradient_checkpointing", "id2label", "label2id",
    "task_specific_params", "problem_type", "finetuning_task", "tokenizer_class", "prefix",
    "attn_implementation", "_attn_implementation", "_attn_implementation_autoset",
    "is_encoder_decoder", "is_decoder", "add_cross_attention", "cross_attention_hidden_size",
    "tie_encoder_decoder", "keys_to_ignore_at_inference", "pruned_heads",
    "chunk_size_feed_forward", "pretraining_tp", "max_length", "min_length", "do_sample",
    "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k",
    "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids", "tf_legacy_loss",
    "use_bfloat16",
])
# fmt: on


class Foreign:
    """A config.json of which every field is read, known to say nothing of numbers, or refused.

    Attributes:
        where: the file, for messages.
        tensors: names of those that stand beside it.
    """

    def __init__(self, values: Mapping[str, Any], where: str, tensors: Collection[str] = ()):
        self._values, self.where, self._read = values, where, set[str]()
        self.tensors = tensors

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        """A field's value; `default` where it is not said, or said to be null."""
        self._read.add(key)
        value = self._values.get(key)
        if value is None and default is REQUIRED:
            raise config.InputError(f"{self.where}: lacks {key!r}, which its kind of model needs.")
        return default if value is None else value

    def must(self, key: str, allowed: Collection[Any], default: Any = REQUIRED) -> Any:
        """A field's value, which is one of those that our layers can be."""
        value = self.take(key, default)
        if value not in allowed:
            known = ", ".join(map(repr, allowed))
            raise config.InputError(f"{self.where}: {key} = {value!r}; allowed are {known}.")
        return value

    def section(self, key: str, usual: Mapping[str, Any]) -> "Foreign":
        """A section of its own; many a file says only in what it is not `usual`.

        Raises:
            InputError: it is missing, or no section.
        """
        value = self.take(key)
        if not isinstance(value, dict):
            raise config.InputError(f"{self.where}: {key} is no section.")
        return Foreign({**usual, **value}, f"{self.where}: {key}")

    def skip(self, *keys: str) -> None:
        """Fields that say nothing of this kind of model."""
        self._read.update(keys)

    def finish(self) -> list[str]:
        """The fields that nobody read and that are empty; refuses one that says something."""
        rest = {k: v for k, v in self._values.items() if k not in self._read | HARMLESS}
        for key, value in rest.items():
            if value not in (None, False, "", [], {}):
                raise config.InputError(
                    f"{self.where}: nobody knows what {key} = {json.dumps(value)} does to the "
                    "numbers. If nothing, take it out of the file."
                )
        return sorted(rest)


def named(table: Mapping[str, str], ours: str) -> str | None:
    """The first name of theirs that a table says is this one of ours; None: they have none."""
    return next((theirs for theirs, name in table.items() if name == ours), None)


def classes(theirs: Foreign) -> int:
    """How many classes a head tells apart."""
    return theirs.take("num_labels", len(theirs.take("id2label", ("0", "1"))))


def open_config(folder: pathlib.Path) -> dict[str, Any]:
    """The config.json of a model's folder."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise config.InputError(f"{folder}: no such folder.")
    if not path.is_file():
        raise config.InputError(f"{folder}: has no config.json, so it is no model's folder.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise config.InputError(f"{path}: is no JSON ({error}).") from error
    if not isinstance(values, dict):
        raise config.InputError(f"{path}: is no JSON object.")
    if values.get("quantization_config"):
        how = values["quantization_config"].get("quant_method", "some way")
        raise config.InputError(
            f"{path}: the weights are quantised ({how}); allowed are float32, bfloat16 and "
            "float16. Fetch those of the model before it was quantised."
        )
    return values

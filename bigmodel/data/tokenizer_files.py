"""Tokenizers as Hugging Face folders have them."""

import json

from bigmodel.data.tokenizers import END_OF_TEXT, Json, SentencePiece, Tokenizer


def files(tokenizer: Tokenizer, *, begins: bool) -> dict[str, bytes]:
    """What a folder holds so that `transformers` gives the same ids, by the file's name.

    Args:
        tokenizer: of a run.
        begins: that texts start with its `bos`, if it does so (`Tokenizer.starts`).
    """
    if isinstance(tokenizer, SentencePiece):
        return {"tokenizer.model": tokenizer.library.serialized_model_proto()}
    import tokenizers

    given = tokenizer.library.to_str() if isinstance(tokenizer, Json) else byte_level()
    library = tokenizers.Tokenizer.from_str(given)
    bos, eos = (library.id_to_token(number) for number in (tokenizer.bos, tokenizer.eos))
    if begins and tokenizer.starts and library.encode("a").ids[:1] != [tokenizer.bos]:
        library.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos)]
        )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": library.to_str(pretty=True).encode(),
        "tokenizer_config.json": json.dumps(settings, indent=2).encode(),
    }


def byte_level() -> str:
    """`Bytes` as a tokenizer.json: byte pairs of which none are merged."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    # In the alphabet of these files a byte that prints stands for itself, and those that do not
    # are the characters from 256 on, in order.
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    signs = {byte: chr(byte) for byte in printing}
    signs |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    library = tokenizers.Tokenizer(models.BPE({signs[byte]: byte for byte in range(256)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([END_OF_TEXT[0]])  # the next id, 256
    return library.to_str()

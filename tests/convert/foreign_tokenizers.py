"""Tokenizers as folders of the Hub have them, and what `transformers` makes of a page.

Small ones are written here; real ones are made of published vocabularies where those lie at hand.
What is recorded is renewed by python -m tests.convert.foreign_tokenizers, with transformers.
"""

import json
import os
import pathlib
import tarfile
import tempfile
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bigmodel.data import train_tokenizer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "hugging_face" / "tokenizers.json"
NEAR = pathlib.Path(__file__).parents[2].parent / "shared" / "data"
DATA = pathlib.Path(os.environ.get("BIGMODEL_DATA", NEAR))
ARCHIVE = DATA / "tokenizers.tar.xz"
PAGE = """\
 Once upon a time, there was naïve café; it's the café's 2nd "page" — isn't it?  Two  spaces.
你好，世界。天地玄黃，宇宙洪荒。 こんにちは世界 안녕하세요
Привет, мир! Γειά σου שלום עולם مرحبا नमस्ते
emoji 😀👩‍👩‍👧👍🏽 🇩🇪 e\u0301 ﬁne Ａ ½ ∑ ≠ £ \u00a0 \u200b \ufeff end

def f(x: int = 12345) -> str:
\treturn f"{x:>8,}"  # 3.14e-10 != 0x1F
    if not (a and b) or c[-1]: raise ValueError("\\n")\r
<div class="a">&amp;</div>\t\t
"""
GPT2 = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>"}
GPT2 |= {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}


def write(name: str, folder: pathlib.Path) -> None:
    """A case's tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    library, settings = CASES[name]()
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def byte_level() -> tokenizers.Tokenizer:
    """Trained on the page, as our own are; it ends with the token <|endoftext|>."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.json"
        train_tokenizer.train([PAGE] * 3, path, algorithm="bpe", size=420)
        library = tokenizers.Tokenizer.from_file(str(path))
    library.normalizer = None
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.post_processor = processors.ByteLevel(trim_offsets=False)
    return library


def gpt2() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    return byte_level(), GPT2


def opt() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    return byte_level(), FAST | {"bos_token": "<|endoftext|>", "add_bos_token": True}


def llama3() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    library = byte_level()
    library.add_special_tokens(["<|begin_of_text|>"])
    library.post_processor = begun(library, "<|begin_of_text|>")
    bos = {"__type": "AddedToken", "content": "<|begin_of_text|>", "special": True}
    return library, FAST | {"bos_token": bos}


def qwen() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    library = byte_level()
    library.normalizer = normalizers.NFC()
    return library, FAST | {"bos_token": None, "add_bos_token": False}


def told_not_to_begin() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    library, settings = llama3()
    return library, settings | {"add_bos_token": False}


def llama() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Pieces of SentencePiece as BPE: U+2581 for a space, bytes for what has no piece."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    letters = sorted({"▁", *PAGE.lower()} - set(" \n\t\r"))
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("i", "s"), ("▁", "▁"), ("世", "界")]
    pieces = [*names, *letters, *(a + b for a, b in merges)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    bpe = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    library = tokenizers.Tokenizer(bpe)
    library.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*spaces, decoders.Strip(" ", 1, 0)])
    library.add_special_tokens(names[:3])
    library.post_processor = begun(library, "<s>")
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return library, {"tokenizer_class": "LlamaTokenizer", "legacy": False, **named}


def t5() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Unigrams, of which a text ends with </s> and begins with nothing."""
    letters = sorted({"▁", *PAGE} - set(" \n\t\r"))
    scored = [("▁the", -3.0), ("▁t", -4.0), ("is", -4.5), *((c, -6.0) for c in letters)]
    library = tokenizers.Tokenizer(
        models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scored], unk_id=2)
    )
    words = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    library.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    library.add_special_tokens(["<pad>", "</s>", "<unk>"])
    library.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    named = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "extra_ids": 0}
    return library, {"tokenizer_class": "T5Tokenizer", **named}


def bert() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    letters = sorted(set(PAGE.lower()) - set(" \n\t\r"))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return word_pieces([*special, *letters, *(f"##{c}" for c in letters), "the", "##is", "def"])


def word_pieces(pieces: list[str]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Uncased BERT of a vocabulary."""
    vocab = {piece: i for i, piece in enumerate(pieces)}
    library = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    named = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    library.add_special_tokens(list(named.values()))
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return library, {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **named}


def begun(library: tokenizers.Tokenizer, bos: str) -> Any:
    return processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, library.token_to_id(bos))],
    )


def published(name: str) -> bytes:
    """A file of the archive."""
    with tarfile.open(ARCHIVE) as archive:
        file = archive.extractfile(f"tokenizers/{name}")
        assert file is not None
        return file.read()


def real_gpt2() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    lines = published("gpt2/vocab.bpe").decode().splitlines()[1:]
    merges = [(line.split()[0], line.split()[1]) for line in lines if line]
    library = tokenizers.Tokenizer(models.BPE(json.loads(published("gpt2/encoder.json")), merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.post_processor = processors.ByteLevel(trim_offsets=False)
    library.add_special_tokens(["<|endoftext|>"])
    return library, GPT2


def real_bert() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    return word_pieces(published("bert/vocab.txt").decode().splitlines())


SMALL = {c.__name__: c for c in (gpt2, opt, llama3, told_not_to_begin, qwen, llama, t5, bert)}
REAL = {c.__name__: c for c in (real_gpt2, real_bert)}
CASES = SMALL | REAL


def recorded() -> dict[str, dict[str, list[int]]]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def record(name: str, folder: pathlib.Path) -> dict[str, Any]:
    """What `transformers` makes of the page, special tokens added and not, and of nothing."""
    import transformers

    write(name, folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    plain = theirs(PAGE, add_special_tokens=False)["input_ids"]
    text = theirs.decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return {"plain": plain, "special": theirs(PAGE)["input_ids"], "text": text}


def main() -> None:
    found = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = record(name, pathlib.Path(folder))
    GOLDEN.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

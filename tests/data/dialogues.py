"""Tokenizers with chat templates for the tests of chats, and chats for them."""

import functools
import gzip
import json
import pathlib
import tempfile

import numpy as np
import pyarrow
import pyarrow.parquet

from bigmodel.data import chat_template_files, chats, tokenizers, train_tokenizer
from tests.data.corpora import TEXTS

CHATML = ("<|im_start|>", "<|im_end|>")
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

# As of Llama 3 (Grattafiori et al. 2024), but for its comments and its one "set".
LLAMA_TEMPLATE = (
    "{{- bos_token }}{% for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "How are you?"},
    {"role": "assistant", "content": "Well, thank you."},
    {"role": "user", "content": "  And now?\n"},
    {"role": "assistant", "content": "Still well."},
]


@functools.cache
def pairs_of_bytes() -> dict:
    """A byte-level tokenizer as its file says it."""
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer.train(TEXTS, pathlib.Path(folder, "t.json"), algorithm="bpe", size=400)
        return json.loads(pathlib.Path(folder, "t.json").read_text())


def folder_of(folder, specials, template=None, **named):
    """A folder as of Hugging Face: a tokenizer with special tokens, and what it says of them."""
    folder.mkdir(exist_ok=True)
    made = json.loads(json.dumps(pairs_of_bytes()))
    first = made["added_tokens"][0]
    for number, content in enumerate(specials):
        made["added_tokens"].append({**first, "id": 400 + number, "content": content})
    (folder / "tokenizer.json").write_text(json.dumps(made))
    told = named | ({} if template is None else {"chat_template": template})
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return str(folder)


def template(folder, name="", specials=CHATML, text=None, date="2024-07-26", **named):
    """A template with a tokenizer that has some special tokens."""
    tokenizer = tokenizers.load(folder_of(folder / "made", specials, text, **named))
    return chat_template_files.load(name, tokenizer, date)


def llama(folder):
    return template(
        folder, "", LLAMA, LLAMA_TEMPLATE, bos_token=LLAMA[0], eos_token={"content": LLAMA[3]}
    )


def spelled(tokenizer, ids):
    """Text of ids with special tokens as they are written."""
    names = {number: text for text, number in tokenizer.specials.items()}
    out, plain = "", []
    for number in map(int, ids):
        if number in names:
            out, plain = out + tokenizer.decode(plain) + names[number], []
        else:
            plain.append(number)
    return out + tokenizer.decode(plain)


def learnt(tokenizer, ids, weights):
    """The stretches of a chat that are learnt, as text."""
    found, last = [], -2
    for at in weights.nonzero()[0]:
        if at == last + 1:
            found[-1].append(ids[at])
        else:
            found.append([ids[at]])
        last = at
    return [spelled(tokenizer, stretch) for stretch in found]


BYTES = tokenizers.load("bytes")
PAIRS = [("a?", "b"), ("how long is this?", "as long as that"), ("x", "y " * 20), ("one", "two")]
CHATS = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in PAIRS]


def rows(source, **fields):
    return chats.open_rows(source, **{**dict(split="all", length=128), **fields})


def everything(opened):
    return opened.take(np.arange(len(opened)))


def write(folder, records, form="jsonl", name="chats"):
    path = folder / f"{name}.{form}"
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif form == "csv":
        lines = [",".join(f'"{cell}"' for cell in record.values()) for record in records]
        path.write_text("\n".join([",".join(records[0]), *lines]))
    else:
        lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
        content = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(content) if form.endswith(".gz") else content)
    return f"{form.removesuffix('.gz')}:{path}"


def messages(some=CHATS):
    return [{"messages": chat} for chat in some]


def read(opened):
    """Each chat of the rows, in order: its text, and the text of what is learnt of it."""
    found, batch = [], everything(opened)
    for row in range(len(opened)):
        for number in range(1, batch["segments"][row].max() + 1):
            own = batch["segments"][row] == number
            targets, weights = batch["targets"][row, own], batch["weights"][row, own]
            learnt = targets[weights > 0]
            found.append((BYTES.decode(targets), spelled(BYTES, learnt)))
    return found


def written(pairs=PAIRS):
    return [(f"User: {q}\n\nAssistant: {a}", f" {a}<|endoftext|>") for q, a in pairs]

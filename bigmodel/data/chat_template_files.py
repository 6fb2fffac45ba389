"""Where chat templates come from: a tokenizer's folder, a file, or the two that are built in."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bigmodel import config
from bigmodel.data import tokenizers
from bigmodel.data.chat_templates import Fault, Template

# "Assistant:" asks for an answer, which begins with a space: no token reaches over the colon.
PLAIN = """{{ bos_token }}{% for message in messages %}
{% if message.role == 'system' %}
{{ message.content + '\n\n' }}
{%- elif message.role == 'user' %}
{{ 'User: ' + message.content + '\n\n' }}
{%- elif message.role == 'assistant' %}
{{ 'Assistant: ' + message.content + eos_token }}
{%- else %}
{{ raise_exception('it has no role ' + message.role) }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ 'Assistant:' }}
{%- endif %}
"""
CHATML = """{% for message in messages %}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{%- endif %}
"""
DATE = "2024-07-26"  # that Llama 3's template tells if nobody does
BUILT_IN = {"plain": PLAIN, "chatml": CHATML}
NEEDS = {"plain": (), "chatml": ("<|im_start|>", "<|im_end|>")}


def load(name: str, tokenizer: tokenizers.Tokenizer, date: str) -> Template:
    """A template by the config's `data.template`.

    Args:
        name: "" (that of the tokenizer's folder, else "plain"), "plain", "chatml", or a file.
        tokenizer: makes the ids.
        date: as 2024-07-26.
    """
    try:
        day = datetime.date.fromisoformat(date)
    except ValueError as error:
        raise config.InputError(
            f"data.date = {date!r}: allowed are dates such as '2024-07-26'."
        ) from error
    own = of_folder(tokenizer)
    if not name and own:
        return Template(own[0], own[1], tokenizer, named_tokens(tokenizer), day)
    if (name or "plain") in BUILT_IN:
        return built_in(name or "plain", tokenizer, day)
    path = config.place(name, "data.template")
    if not path.is_file():
        raise config.InputError(
            f"data.template = {name!r}: no such file; allowed are '' (the tokenizer's), "
            f"{', '.join(BUILT_IN)}, and a file.{config.nearest(name, BUILT_IN)}"
        )
    return Template(name, path.read_text(), tokenizer, named_tokens(tokenizer), day)


def built_in(name: str, tokenizer: tokenizers.Tokenizer, day: datetime.date) -> Template:
    """ "plain" or "chatml"; what turns are told apart by must be special tokens."""
    if missing := [token for token in NEEDS[name] if token not in tokenizer.specials]:
        raise config.InputError(
            f"data.template = {name!r} writes {' and '.join(missing)}, and the tokenizer "
            f'"{tokenizer.name}" has no such special tokens; a message could imitate them. Allowed '
            "are 'plain', or a tokenizer that has them."
        )
    return Template(name, BUILT_IN[name], tokenizer, ends_of_texts(tokenizer), day)


def ends_of_texts(tokenizer: tokenizers.Tokenizer) -> dict[str, str]:
    """The variables "bos_token" and "eos_token" of a template, by the tokenizer's ids."""
    of_ids = {number: text for text, number in tokenizer.specials.items()}
    if not {tokenizer.bos, tokenizer.eos} <= of_ids.keys():
        raise config.InputError(
            f'tokenizer "{tokenizer.name}": what starts and ends a text must be special tokens of '
            f"it to be written in a chat; they have the ids {tokenizer.bos} and {tokenizer.eos}."
        )
    return {"bos_token": of_ids[tokenizer.bos], "eos_token": of_ids[tokenizer.eos]}


def of_folder(tokenizer: tokenizers.Tokenizer) -> tuple[str, str] | None:
    """(file, text) of the template that lies beside a tokenizer."""
    folder = beside(tokenizer)
    if folder is None:
        return None
    if (folder / "chat_template.jinja").is_file():
        return str(folder / "chat_template.jinja"), (folder / "chat_template.jinja").read_text()
    found = (tokenizers.settings(folder) or {}).get("chat_template")
    if isinstance(found, list):  # several by name
        found = {one["name"]: one["template"] for one in found}.get("default")
    return (str(folder / tokenizers.SETTINGS), found) if found else None


def named_tokens(tokenizer: tokenizers.Tokenizer) -> dict[str, str]:
    """The same and others as the tokenizer's folder names them, if it names any."""
    folder = beside(tokenizer)
    said = tokenizers.settings(folder) if folder else None
    if not said:
        return ends_of_texts(tokenizer)
    named = {k: tokenizers.named_token(said, k) for k in said if k.endswith("_token")}
    return {name: text for name, text in named.items() if isinstance(text, str)}


def beside(tokenizer: tokenizers.Tokenizer) -> epath.Path | None:
    """The folder that a tokenizer was read from."""
    if tokenizer.name == "bytes":
        return None
    path = config.place(tokenizer.name, "tokenizer")
    return path if path.is_dir() else path.parent


def asked(
    texts: Sequence[str], tokenizer: tokenizers.Tokenizer, data: Mapping[str, Any]
) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """Ids of texts, each as what a user says first, and the tokens that end an answer.

    Args:
        texts: one for each chat.
        tokenizer: of the run.
        data: fields of the run's data: of chats they name the template; else it is the tokenizer's.
    """
    if "template" not in data and of_folder(tokenizer) is None:
        raise config.InputError(
            f"chat: the run was trained on data.kind = {data['kind']!r}, and the tokenizer "
            f'"{tokenizer.name}" has no chat template; leave it out.'
        )
    made = load(data.get("template", ""), tokenizer, data.get("date", DATE))
    try:
        return [made.prompt(text) for text in texts], tuple({made.end, tokenizer.eos})
    except Fault as fault:
        raise config.InputError(f"chat: a prompt is no message of a user: {fault}.") from fault

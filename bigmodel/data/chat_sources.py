"""Where chats come from: records of JSON lines, tables, Parquet and others, the standard library.

A record is a list of messages, or a prompt and a completion. What cannot be used is a Fault, which
the reader may count and pass over.
"""

import dataclasses
import functools
import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from bigmodel import config
from bigmodel.data import chat_templates, files, pair_sources, records, sources
from bigmodel.data.chat_templates import Fault, Message

Read = Iterator[tuple[str, Mapping[str, Any] | Fault]]  # where it stands, and what is there

ALIASES = {"human": "user", "gpt": "assistant"}  # of ShareGPT's files
CALLS = ("tool_calls", "function_call")  # parts of a message that are not read


@dataclasses.dataclass(frozen=True)
class Fields:
    """Names of a record's fields; those of `open_rows` that end in "_field"."""

    messages: str
    role: str
    content: str
    prompt: str
    context: str
    completion: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A source that was found.

    Attributes:
        name: as in the config.
        fingerprint: changes whenever the records may have changed.
        split: a row of `sources.HASHED_SPLITS` that has still to be taken, or "all".
        read: gives all records, in order.
    """

    name: str
    fingerprint: str
    split: str
    read: Callable[[], Read]


def find(
    name: str,
    split: str,
    fields: Fields,
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
) -> Source:
    """Finds a source by its name in a config: those of `records.find`.

    But "python_stdlib" is what its functions do: the first line of what documents each.
    """
    kind, _, where = name.partition(":")
    if name == "python_stdlib" and name not in (extensions or {}):
        found = pair_sources.find(name, split, fields=("", ""))
        return Source(name, found.fingerprint, found.split, functools.partial(asked, found, fields))
    if kind == "jsonl" and where:
        split = sources.hashed_split(name, split)
        paths, _, known = files.find(where, ".jsonl")
        return Source(name, known, split, functools.partial(lines, paths))
    of_records = records.find(name, split, text=fields.prompt, extensions=extensions)
    return Source(name, of_records.fingerprint, of_records.split, of_records.read)


def lines(paths: Sequence[str]) -> Read:
    """The JSON lines of files, of which one that is none is a Fault."""
    for path in paths:
        with files.opened(path) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path}: line {number}"
                try:
                    yield where, files.record_of(line, where)
                except config.InputError as error:
                    yield where, Fault("it" + str(error).removeprefix(where))


def asked(found: pair_sources.PairSource, fields: Fields) -> Read:
    for pair in found.read():
        said = {fields.prompt: f"What does {pair.source} do?", fields.completion: pair.target}
        yield f"{found.files[pair.file]}: line {pair.row}", said


def messages_of(record: Mapping[str, Any], fields: Fields, normalize: str) -> list[Message]:
    """The messages of a record, in a Unicode form; raises Fault if they are no chat."""
    if record.get(fields.messages) is not None:
        said = record[fields.messages]
        if not isinstance(said, Sequence) or isinstance(said, str) or not len(said):
            raise Fault(f'it has no list of messages in "{fields.messages}"')
        chat = [message_of(number, one, fields) for number, one in enumerate(said)]
    else:
        prompt, answer = (
            text_of(record, name, fields) for name in (fields.prompt, fields.completion)
        )
        context = record.get(fields.context) if fields.context else None
        if context is not None and not isinstance(context, str):
            raise Fault(f'it has no text in "{fields.context}"')
        prompt += f"\n\n{context}" if context and context.strip() else ""
        chat = [("user", prompt), ("assistant", answer)]
    if not any(role == "assistant" for role, _ in chat):
        raise Fault("it has no answer, which is a message of the assistant")
    if normalize != "none":
        form = cast(sources.Form, normalize)
        chat = [(role, unicodedata.normalize(form, text)) for role, text in chat]
    return [{"role": role, "content": text} for role, text in chat]


def message_of(number: int, said: Any, fields: Fields) -> tuple[str, str]:
    """(role, content) of a message."""
    if not isinstance(said, Mapping):
        raise Fault(f"its message {number} is {type(said).__name__}, and no object")
    role, content = said.get(fields.role), said.get(fields.content)
    role = ALIASES.get(role, role) if isinstance(role, str) else role
    if role not in chat_templates.ROLES:
        allowed = ", ".join(chat_templates.ROLES)
        near = config.nearest(str(role), chat_templates.ROLES)
        if fields.role not in said:
            near = config.nearest(fields.role, map(str, said))
        raise Fault(
            f'its message {number} has {role!r} in "{fields.role}"; allowed are {allowed}.{near}'
        )
    if not isinstance(content, str) or not content.strip():
        near = "" if fields.content in said else config.nearest(fields.content, map(str, said))
        raise Fault(f'its message {number} has no text in "{fields.content}".{near}')
    for name in CALLS:
        if said.get(name):
            raise Fault(f'its message {number} has "{name}", and calls of tools are not read')
    return role, content


def text_of(record: Mapping[str, Any], name: str, fields: Fields) -> str:
    text = record.get(name)
    if name not in record:
        near = config.nearest(
            name, [k for k in record if k not in (fields.prompt, fields.completion)]
        )
        raise Fault(
            f'it has neither "{fields.messages}" nor both "{fields.prompt}" and '
            f'"{fields.completion}"; it has {", ".join(map(str, record)) or "no fields"}.{near}'
        )
    if not isinstance(text, str) or not text.strip():
        raise Fault(f'it has no text in "{name}"')
    return text


def digest_of(chat: Sequence[Message]) -> bytes:
    """What says the split: all before the first answer, so that no question is on two sides."""
    roles = [message["role"] for message in chat]
    before = [[m["role"], m["content"]] for m in chat[: roles.index("assistant")]]
    return hashlib.blake2b(json.dumps(before).encode(), digest_size=16).digest()

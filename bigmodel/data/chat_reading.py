"""Chats into arrays of tokens and of what is learnt of them, or refused by their place."""

import dataclasses
import hashlib
import json
import pathlib
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import cache, chat_sources, chat_templates, labelling, prepare, sources
from bigmodel.data.chat_templates import Fault

FORMAT = 1  # raise it when the same inputs would give another preparation
AT_A_TIME = 2**10  # records between two words of progress


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the records of a source become arrays; the fields are those of `chats.open_rows`."""

    found: chat_sources.Source
    split: str
    template: chat_templates.Template
    fields: chat_sources.Fields
    train_on: str
    broken: str
    normalize: str
    progress: cache.Progress | None

    @property
    def key(self) -> str:
        known = [FORMAT, "chats", self.found.name, self.found.fingerprint, self.split]
        known += [self.template.tokenizer.fingerprint, self.template.fingerprint]
        known += [dataclasses.astuple(self.fields), self.train_on, self.broken, self.normalize]
        known.append(unicodedata.unidata_version)
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]

    def write(self, folder: pathlib.Path) -> dict[str, Any]:
        dtype = prepare.token_dtype(self.template.tokenizer.size)
        tokens, weights = [np.empty(0, dtype)], [np.empty(0, np.uint8)]
        numbers: list[int] = []
        faults: list[str] = []
        done = 0
        for number, (where, record) in enumerate(self.found.read()):
            if self.progress and number % AT_A_TIME == 0:
                self.progress(f"{self.found.name} {self.split}", done, 0)
            try:
                chat = self.chat(where, record)
            except Fault as fault:
                if self.broken == "refuse":
                    stop = "" if str(fault).endswith(("?", ".")) else "."
                    raise config.InputError(
                        f'{where} is no chat: {fault}{stop} data.broken = "skip" leaves such out.'
                    ) from fault
                faults.append(f"{where}: {fault}")
                continue
            if chat is not None:
                done += len(chat[0])
                tokens.append(chat[0].astype(dtype))
                weights.append(chat[1])
                numbers.append(number)
        if not numbers:
            first = f", the first as {faults[0]}" if faults else ""
            raise config.InputError(
                f'source "{self.found.name}" has no chats in the split "{self.split}" '
                f"({len(faults)} are broken{first})."
            )
        arrays = {
            "tokens": np.concatenate(tokens),
            "weights": np.concatenate(weights),
            "offsets": np.cumsum([len(ids) for ids in tokens], dtype=np.int64),
            "records": np.array(numbers, np.int64),
        }
        content = labelling.save(arrays, folder, self.template.tokenizer)
        return {"content": content, "broken": len(faults)}

    def chat(
        self, where: str, record: Mapping[str, Any] | Fault
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids of a record and which of them are learnt; None: it is of another split."""
        if isinstance(record, Fault):
            raise record
        messages = chat_sources.messages_of(record, self.fields, self.normalize)
        if not sources.in_split(chat_sources.digest_of(messages), self.found.split):
            return None
        return self.template.encode(messages, where, self.train_on)

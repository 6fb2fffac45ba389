"""Chat templates: what writes messages as one text with special tokens between them, and as ids.

A template is Jinja, as `tokenizer_config.json` has it, rendered as transformers'
`apply_chat_template` does. What a message says is never more than text: a special token that it
spells out is marked before the template is rendered, and encoded as the text that it is.
"""

import dataclasses
import datetime
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from bigmodel import config
from bigmodel.data import tokenizers

Message = Mapping[str, str]  # {"role": of ROLES, "content": text}
ROLES = ("system", "user", "assistant", "tool")
TRAIN_ON = ("answers", "last", "all")

# Around what is text whatever it looks like. Unicode keeps these two out of any text (its
# "noncharacters", chapter 23.7), and no tokenizer sees them.
OPEN, CLOSE = "\ufdd0", "\ufdd1"


class Fault(ValueError):
    """What is wrong with the messages of one row."""


@dataclasses.dataclass(frozen=True)
class Template:
    """A template with the tokenizer whose special tokens it writes.

    Attributes:
        name: "plain", "chatml", or the file that it is from.
        text: Jinja.
        tokenizer: makes the ids.
        tokens: the template's variables "bos_token", "eos_token", ...
        date: what `strftime_now` tells: of the data, not of the day on which they are prepared.
    """

    name: str
    text: str
    tokenizer: tokenizers.Tokenizer
    tokens: Mapping[str, str]
    date: datetime.date

    @property
    def fingerprint(self) -> str:
        """Hash of all that shapes what is written."""
        known = [self.text, dict(self.tokens), self.date.isoformat()]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The text of messages; what must stay text in them stands between OPEN and CLOSE."""
        import jinja2

        guarded = [{**m, "content": self.guarded(m["content"])} for m in messages]
        given: dict[str, Any] = dict(tools=None, documents=None, **self.tokens)
        given |= dict(messages=guarded, add_generation_prompt=add_generation_prompt)
        template = self._compiled
        try:
            return template.render(given)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise Fault(f'the template "{self.name}" refuses it: {error}') from error

    def guarded(self, content: str) -> str:
        """A message with marks around special tokens, and around what begins one at its end."""
        if OPEN in content or CLOSE in content:
            raise Fault("it has U+FDD0 or U+FDD1, which are no characters of any text")
        content = self._special.sub(lambda found: OPEN + found[0] + CLOSE, content)
        body = content.rstrip()  # a template may cut white space off, and go on with the rest
        for size in range(min(self._longest - 1, len(body)), 0, -1):
            if body[-size:] in self._beginnings:
                return f"{body[:-size]}{OPEN}{body[-size:]}{CLOSE}{content[len(body) :]}"
        return content

    def ids(self, text: str) -> np.ndarray:
        """Ids of what `render` gave: of its special tokens the template's alone are special."""
        found, written = [np.empty(0, np.int32)], 0
        for number, piece in enumerate(re.split(f"{OPEN}(.*?){CLOSE}", text, flags=re.DOTALL)):
            if number % 2:
                found.append(self.tokenizer.encode(piece))
            elif OPEN in piece or CLOSE in piece:
                raise Fault(f'the template "{self.name}" takes a special token in it apart')
            elif piece:
                written += len(self._special.findall(piece))
                found.append(self.tokenizer.encode_with_specials(piece))
        whole = np.concatenate(found)
        if np.isin(whole, self._special_ids).sum() > written:
            raise Fault("it spells a special token in a way that the tokenizer takes for one")
        return whole

    def encode(
        self, messages: Sequence[Message], where: str, train_on: str = "answers"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a chat [n], and which of them are learnt [n] uint8.

        An answer is what stands after the prompt that asks for it, up to the token that ends it.
        So what the template writes of the messages before it, with the prompt, must be what it
        writes of all, as far as it goes, token by token.

        Args:
            messages: of the chat.
            where: it stands, for the message of an InputError: the template does not do that.
            train_on: "answers", the "last" of them, or "all" tokens.

        Raises:
            Fault: the template refuses these messages, or leaves something out.
        """
        text = self.render(messages)
        plain = text.replace(OPEN, "").replace(CLOSE, "")
        for number, message in enumerate(messages):
            if message["role"] in ("system", "user") and message["content"].strip() not in plain:
                raise Fault(f'the template "{self.name}" does not write its message {number}')
        whole = self.ids(text)
        weights = np.zeros(len(whole), np.uint8)
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        if train_on == "all":
            weights[:] = 1
        for number in {"answers": answers, "last": answers[-1:], "all": []}[train_on]:
            weights[self.answer(messages, number, whole, where)] = 1
        weights[:1] = 0  # nothing stands before the first token
        return whole, weights

    def answer(
        self, messages: Sequence[Message], number: int, whole: np.ndarray, where: str
    ) -> slice:
        """Where the answer `messages[number]` stands in the ids of the whole chat."""
        asked = self.ids(self.render(messages[:number], add_generation_prompt=True))
        told = self.ids(self.render(messages[: number + 1]))
        begin, common = len(asked), shared(told, whole)
        if shared(asked, told) < begin:
            self.refuse(asked, told, number, where, "with the prompt for an answer")
        special = np.flatnonzero(np.isin(told[:common], self._special_ids))
        ends = [int(at) for at in special if at >= begin]
        content, decode = messages[number]["content"].strip(), self.tokenizer.decode
        for at in ends:
            if content in decode(told[begin:at]):
                return slice(begin, at + 1)
        # The template, or the tokenizer, writes what is said in another way.
        if ends and not decode(told[ends[-1] + 1 :]).strip():
            return slice(begin, ends[-1] + 1)
        if common < len(told):
            self.refuse(told, whole, number, where, "up to the end of an answer")
        if len(told) == begin:
            raise Fault(f'the template "{self.name}" does not write its message {number}')
        raise config.InputError(
            f'{where}: the template "{self.name}" writes no special token behind the answer '
            f"{number}, so that nothing would tell a model to stop; let it write eos_token there."
        )

    def refuse(
        self, one: np.ndarray, other: np.ndarray, number: int, where: str, what: str
    ) -> NoReturn:
        """Says that ids `one` are not those that `other` begins with."""
        at = shared(one, other)
        near = [self.spelled(ids[max(at - 4, 0) : at + 4]) for ids in (one, other)]
        raise config.InputError(
            f'{where}: the template "{self.name}" writes the messages around their answer '
            f"{number} in two ways: the tokens {what} must be those that the longer chat begins "
            f"with, or the answer cannot be told from the rest; token {at} is another, near "
            f'{near[0]!r} and {near[1]!r}. data.train_on = "last" asks that of the last answer '
            'alone, "all" of none.'
        )

    def spelled(self, ids: Iterable[int]) -> str:
        """Text of ids, special tokens as they are written."""
        names = {number: text for text, number in self.tokenizer.specials.items()}
        found = ""
        for special, group in itertools.groupby(map(int, ids), names.__contains__):
            some = list(group)
            found += (
                "".join(map(names.__getitem__, some)) if special else self.tokenizer.decode(some)
            )
        return found

    @functools.cached_property
    def end(self) -> int:
        """The token that ends an answer."""
        both = [{"role": role, "content": "a"} for role in ("user", "assistant")]
        ids, weights = self.encode(both, "a chat of two letters", "last")
        return int(ids[np.flatnonzero(weights)[-1]])

    def prompt(self, text: str) -> np.ndarray:
        """Ids of what a user says and of the prompt for an answer."""
        return self.ids(self.render([{"role": "user", "content": text}], True))

    @functools.cached_property
    def _compiled(self) -> Any:
        return compiled(self.text, self.name, self.date)

    @functools.cached_property
    def _special(self) -> re.Pattern[str]:
        longest = sorted(self.tokenizer.specials, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest)) or "(?!)")

    @functools.cached_property
    def _special_ids(self) -> np.ndarray:
        return np.array(sorted(self.tokenizer.specials.values()), np.int32)

    @functools.cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(s[:n] for s in self.tokenizer.specials for n in range(1, len(s)))

    @functools.cached_property
    def _longest(self) -> int:
        return max(map(len, self.tokenizer.specials), default=0)


def shared(one: np.ndarray, other: np.ndarray) -> int:
    """How many ids two lists begin with alike."""
    both = min(len(one), len(other))
    unequal = np.flatnonzero(one[:both] != other[:both])
    return int(unequal[0]) if len(unequal) else both


def compiled(text: str, name: str, date: datetime.date) -> Any:
    """A template that may read what it is given and nothing else, with transformers' additions."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """{% generation %} ... {% endgeneration %}, around answers: as if it were not there."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    # Jinja's own escapes HTML.
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = date.strftime
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise config.InputError(
            f'template "{name}": line {error.lineno} is no Jinja: {error.message}'
        ) from error

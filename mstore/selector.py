r"""Selectors: which levels of the tree are meant, as text or as a sequence of names.

    fritz/f02[01-64]/hwthread*       ["fritz", ["f0201", "f0202"], "*"]
    |     |          |
    |     |          every level below each host whose name begins with hwthread
    |     these hosts, in this order; brackets hold numbers and ranges
    the cluster

A selector names one to four levels: cluster, host, type level, subtype level. A level's name is its type followed by
its id, and a name matches every level of that whole name ("core12" is core 12, and a core1 with id 2). Each step is

    a name       that level
    a list       "a,b[01-03]" or a sequence of names: those levels, in the order written
    with a *     every level whose name has that form, in natural order (core2 before core10); "*" alone: every level

Where a level does not hold a metric itself, it stands for all the series below it. Text escapes / , [ ] * \ and a blank at
either end of a name by a backslash: ids such as /home are names, too. The strings of a sequence are read the same way,
but for the slash, which is part of the name there, and "" and [], which match nothing.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mstore.errors import ConfigError, EmptyCluster, InvalidRequest, shortened
from mstore.hostlists import expand
from mstore.limits import NAME_BYTES_MAX, PATH_DEPTH_MAX, SELECTOR_BYTES_MAX, SELECTOR_NAMES_MAX

SelectorLike: TypeAlias = "Selector | str | Sequence[str | Sequence[str]]"
"""Sequences are lists or tuples."""

_SPECIAL = "/,[]*\\ "
# Escaped characters on their way through expand(): no name has control characters.
_HIDDEN = {char: chr(1 + i) for i, char in enumerate(_SPECIAL)}
_SHOWN = str.maketrans({hidden: char for char, hidden in _HIDDEN.items()})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Form:
    """What a name with stars looks like: the texts between the stars, at least two."""

    texts: tuple[str, ...]

    def matches(self, name: str) -> bool:
        first, *middle, last = self.texts
        if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
            return False
        at, end = len(first), len(name) - len(last)
        for text in middle:
            at = name.find(text, at, end)
            if at < 0:
                return False
            at += len(text)
        return True

    @property
    def any(self) -> bool:
        """Every name has this form."""
        return not any(self.texts)


@dataclass(frozen=True, slots=True)
class Step:
    """What a selector says of one level of the tree: names and forms of names, in order; none matches nothing."""

    parts: tuple[str | Form, ...]
    listed: bool = False
    """Written as a list, if perhaps of one."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names, if they are all written out; None when some are only described."""
        names = tuple(part for part in self.parts if isinstance(part, str))
        return names if len(names) == len(self.parts) else None

    @property
    def any(self) -> bool:
        """Everything there is at this level."""
        return any(isinstance(part, Form) and part.any for part in self.parts)

    def matches(self, name: str) -> bool:
        return any(part == name if isinstance(part, str) else part.matches(name) for part in self.parts)


ANY = Step((Form(("", "")),))
"""Written "*"."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Steps from the cluster down, one to four. str() gives a text that parses to the same selector."""

    steps: tuple[Step, ...]

    @classmethod
    def parse(cls, source: SelectorLike) -> Selector:
        """A selector from its text or sequence form.

        raises InvalidRequest saying what is wrong, EmptyCluster when it names no cluster
        """
        if isinstance(source, Selector):
            return source
        if isinstance(source, str):
            return _from_text(source)
        if not isinstance(source, list | tuple):
            raise InvalidRequest(
                f'a selector is text like "fritz/f02[01-64]" or a sequence of names, not {type(source).__name__}'
            )
        return _from_sequence(source)

    def __str__(self) -> str:
        return "/".join(_step_text(step) for step in self.steps)

    @property
    def depth(self) -> int:
        """1 = clusters, 2 = hosts, ..."""
        return len(self.steps)

    def matches(self, names: Sequence[str]) -> bool:
        """Whether a level is meant, by the names from its cluster down to itself."""
        return len(names) == len(self.steps) and all(
            step.matches(name) for step, name in zip(self.steps, names, strict=True)
        )


def _from_text(text: str) -> Selector:
    _check_size(len(text), text)
    if not text.strip():
        raise EmptyCluster('an empty selector: name a cluster, such as "fritz", or "*" for all of them')
    return _of_steps([_text_step(part, text) for part in _hidden(text).split("/")], text)


def _from_sequence(names: Sequence[str | Sequence[str]]) -> Selector:
    shown = reprlib.repr(names)
    if not names or names[0] == "":
        raise EmptyCluster('a selector without a cluster: name one, such as "fritz", or "*" for all of them')
    steps = []
    n_bytes = 0
    for item in names[: PATH_DEPTH_MAX + 1]:
        alone = isinstance(item, str)
        parts = [item] if isinstance(item, str) else item
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            raise _bad(shown, "each step is a name or a list of names")
        n_bytes += sum(map(len, parts))
        _check_size(n_bytes, shown)
        found = [_text_step(_hidden(part).replace("/", _HIDDEN["/"]), shown) for part in parts if part]
        listed = not alone or any(step.listed for step in found)
        steps.append(_united(found, listed, shown))
    return _of_steps(steps, shown)


def _of_steps(steps: list[Step], shown: str) -> Selector:
    if len(steps) > PATH_DEPTH_MAX:
        raise _bad(shown, f"at most {PATH_DEPTH_MAX} levels: cluster, host, type, subtype")
    return Selector(tuple(steps))


def _hidden(text: str) -> str:
    """The text with escaped characters replaced by what stands for them until the names are taken apart."""
    if _CONTROL.search(text):
        raise _bad(text, "no name has control characters")

    def hide(match: re.Match[str]) -> str:
        if match[1] not in _HIDDEN:
            raise _bad(
                text, f"only {_SPECIAL.strip()} and a blank are escaped by a backslash, not {match[1]!r}"
            )
        return _HIDDEN[match[1]]

    if "\\" not in text:
        return text
    hidden = _ESCAPED.sub(hide, text)
    if "\\" in hidden:
        raise _bad(text, "a backslash at the end escapes nothing")
    return hidden


def _text_step(text: str, shown: str) -> Step:
    """One step of hidden text."""
    if text == "[]":
        return Step((), True)
    try:
        names = expand(text, SELECTOR_NAMES_MAX)
    except ConfigError as error:
        raise _bad(shown, str(error).partition(": ")[2]) from None
    if not names:
        raise _bad(shown, "an empty name between slashes")
    listed = len(names) > 1 or any(char in text for char in ",[")
    return _united([Step((_part(name, shown),)) for name in names], listed, shown)


def _united(steps: list[Step], listed: bool, shown: str) -> Step:
    parts = tuple(dict.fromkeys(part for step in steps for part in step.parts))
    if len(parts) > SELECTOR_NAMES_MAX:
        raise _bad(shown, f"more than {SELECTOR_NAMES_MAX} names in one step")
    return Step(parts, listed)


def _part(name: str, shown: str) -> str | Form:
    try:
        n_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise _bad(shown, "a name that is no UTF-8") from None
    if n_bytes > NAME_BYTES_MAX:
        raise _bad(shown, f"a name of more than {NAME_BYTES_MAX} bytes")
    if "*" not in name:
        return name.translate(_SHOWN)
    # Two stars beside each other say what one says.
    texts = [text.translate(_SHOWN) for text in name.split("*")]
    return Form((texts[0], *filter(None, texts[1:-1]), texts[-1]))


def _step_text(step: Step) -> str:
    if not step.parts:
        return "[]"
    texts = [
        _escaped(part) if isinstance(part, str) else "*".join(map(_escaped, part.texts))
        for part in step.parts
    ]
    return ",".join(texts)


def _escaped(name: str) -> str:
    text = re.sub(r"([/,\[\]*\\])", r"\\\1", name)
    if text.startswith(" "):
        text = "\\" + text
    if text.endswith(" ") and not text.endswith("\\ "):
        text = text[:-1] + "\\ "
    return text


def _check_size(n: int, shown: str) -> None:
    if n > SELECTOR_BYTES_MAX:
        raise _bad(shown, f"longer than {SELECTOR_BYTES_MAX} bytes")


def _bad(selector: str, reason: str) -> InvalidRequest:
    shown = shortened(selector, 80).encode(errors="replace").decode()
    return InvalidRequest(f"bad selector {shown!r}: {reason}", selector=shown)

"""What the tables of keys are made of: one key, and one table of the file with keys of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the file's top level: where it goes, how it is read and how it is written again."""

    field: str
    parse: Callable[[object], Any]
    show: Callable[[Any], object] = lambda value: value


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the file, such as [archive]: the field of Config it fills, what makes its value, its keys."""

    field: str
    make: Callable[..., Any]
    """Called with the settings that are given, by field; its defaults are those of an absent table."""
    settings: Mapping[str, Setting]

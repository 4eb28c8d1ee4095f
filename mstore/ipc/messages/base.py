"""What all messages share: the decorator that makes one, the base class, the protocol's version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, TypeVar, dataclass_transform

VERSION: Final = 1
"""The newest protocol version of this code; OLDEST_VERSION is the oldest it still speaks."""
OLDEST_VERSION: Final = 1

C = TypeVar("C")


@dataclass_transform(frozen_default=True)
def message(cls: type[C]) -> type[C]:
    """A slotted dataclass that nobody changes: the type checker sees to it.

    At run time it is not frozen, because that makes a Query five times as dear to make as it is so.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@message
class Message:
    """Base of all. TAG: the frame's tag. MANY: arrays of more than ITEMS_MAX elements are allowed."""

    TAG: ClassVar[int]
    MANY: ClassVar[bool] = False

"""What all messages share: the decorator that makes one, the base class, the protocol's version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar, dataclass_transform

from mstore.ipc.messages.tags import TAG_OF

VERSION: Final = 1
"""The newest protocol version of this code; OLDEST_VERSION is the oldest it still speaks."""
OLDEST_VERSION: Final = 1

C = TypeVar("C")


@dataclass_transform(frozen_default=True)
def message(cls: type[C]) -> type[C]:
    """A slotted dataclass that nobody changes: the type checker sees to it.

    At run time it is not frozen, because that makes a Query five times as dear to make as it is so. What dataclasses
    would compile for each class, Message does for all of them: half the time that a class takes to make.
    """
    return dataclass(slots=True, eq=False, repr=False)(cls)


@message
class Message:
    """Base of all. TAG: the frame's tag. MANY: arrays of more than ITEMS_MAX elements are allowed."""

    TAG: ClassVar[int]
    MANY: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        cls.TAG = TAG_OF[cls.__name__]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._values().items())
        return f"{type(self).__name__}({shown})"

    def _values(self) -> dict[str, Any]:
        names: tuple[str, ...] = self.__match_args__
        return {name: getattr(self, name) for name in names}

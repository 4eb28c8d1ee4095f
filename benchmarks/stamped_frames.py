"""Frames of lines that are sent again and again, stamped anew each time: ten digits a line are copied, no text is made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_DIGITS = 10


class StampedFrames:
    """Lines of equal length within a frame, sent at one time a frame.

    heads   of each frame its lines up to the timestamp, all equally long
    """

    def __init__(self, heads: Sequence[Sequence[str]]) -> None:
        self.texts = [bytearray("".join(f"{head} {0:010d}\n" for head in lines).encode()) for lines in heads]
        self._times: list[NDArray[np.uint8]] = [
            np.frombuffer(text, np.uint8).reshape(len(lines), -1)[:, -_DIGITS - 1 : -1]
            for text, lines in zip(self.texts, heads, strict=True)
        ]
        self._second = [0] * len(self.texts)
        self._next = 0

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def n_rounds(self) -> int:
        """How often all frames were taken."""
        return self._next // len(self.texts)

    def take(self, second: int) -> bytearray:
        """The next frame, its lines stamped with this Unix second. Whoever takes one again has sent it before."""
        k = self._next % len(self.texts)
        self._next += 1
        if second != self._second[k]:
            self._times[k][:] = np.frombuffer(b"%010d" % second, np.uint8)
            self._second[k] = second
        return self.texts[k]

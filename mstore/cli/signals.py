"""The signals that end a command: they raise Interrupted, so that it cleans up and tells what was done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def hold() -> None:
    """They wait from now on, until release(): nobody is there yet, or any more, who knows what they mean."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def release() -> None:
    """What waited comes now, and what comes later at once."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def status(interrupt: KeyboardInterrupt) -> int:
    """The exit status that shells give a command ended by this signal."""
    return 128 + int(getattr(interrupt, "number", signal.SIGINT))


def interruptible() -> contextlib.AbstractContextManager[None]:
    """Inside, each of these signals raises Interrupted; those that the caller ignores (nohup) stay ignored."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted(number)

    return _handled_by(interrupt)


def undisturbed() -> contextlib.AbstractContextManager[None]:
    """Inside, they do nothing: for cleaning up, which takes a bounded time and must not be cut short."""
    return _handled_by(signal.SIG_IGN)


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, Any], None] | signal.Handlers) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python allows it nowhere else
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        for number, known in before.items():
            if known is not signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)

"""Signals that end a command: which do, which do not, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from mstore.cli import signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in signals.ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_that_the_caller_ignores_stays_ignored_and_the_others_end_the_command() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with signals.interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(signals.Interrupted) as interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
    assert signals.status(interrupt.value) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_cleaning_up_is_not_cut_short_and_handlers_are_as_they_were_afterwards() -> None:
    with signals.interruptible():
        inside = signal.getsignal(signal.SIGINT)
        with signals.undisturbed():
            for number in signals.ENDING:
                os.kill(os.getpid(), number)
        assert signal.getsignal(signal.SIGINT) is inside
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

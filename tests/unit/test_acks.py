"""Acknowledgements in order, and the counts they carry."""

from __future__ import annotations

import numpy as np

from mstore.ingest.acks import AckQueue
from mstore.ingest.tally import Tally
from mstore.model import N_REASONS, Ack, Reason


def test_an_acknowledgement_waits_for_its_own_level() -> None:
    queue, fired = AckQueue(), []
    queue.wait(Ack.MEMORY, 100, lambda: fired.append("memory"))
    queue.wait(Ack.DURABLE, 100, lambda: fired.append("durable"))
    assert queue.advance(drained=100, durable=99) == 1
    assert fired == ["memory"]
    assert queue.advance(drained=100, durable=100) == 1
    assert fired == ["memory", "durable"]
    assert len(queue) == 0


def test_acknowledgements_fire_in_order_and_none_early() -> None:
    queue, fired = AckQueue(), []
    for position in (8, 8, 16, 24):
        queue.wait(Ack.DURABLE, position, lambda position=position: fired.append(position))
    queue.advance(0, 15)
    assert fired == [8, 8]
    queue.advance(0, 24)
    assert fired == [8, 8, 16, 24]


def test_written_rejected_and_ignored_add_up() -> None:
    tally = Tally()
    counts = np.zeros(N_REASONS, dtype=np.int64)
    counts[0], counts[Reason.BAD_VALUE], counts[Reason.UNKNOWN_METRIC] = 5, 2, 3
    tally.add(counts)
    tally.refuse(Reason.TOO_LONG)
    assert (tally.written, tally.rejected, tally.ignored) == (5, 3, 3)
    assert tally.reasons == {"bad_value": 2, "unknown_metric": 3, "too_long": 1}


def test_the_reply_line_says_everything_in_one_line() -> None:
    tally = Tally()
    tally.refuse(Reason.NO_HOST, 2)
    assert tally.words(durable=True) == "written=0 rejected=2 ignored=0 durable=yes no_host=2"
    assert tally.words(durable=False).split()[3] == "durable=no"

"""A type changed by a reload, over real memory: what is on its way in the old type arrives first, whatever the schedule."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from mstore import clock
from mstore.errors import StorageError
from mstore.ingest.effects import NeedReferences, NeedTurn
from mstore.ingest.framed import FramedSession
from mstore.ingest.text import TextSession
from mstore.ipc import messages as m
from mstore.shm import layout
from mstore.workers import changeover_ground
from mstore.workers.changeover import Changeover, State
from mstore.workers.changeover_ground import ChangeGround, Follower
from tests.changeover_rig import HEADER, Persister, send
from tests.ingest_rig import NOW_S, IngestRig, line

T0 = NOW_S - 600


@pytest.fixture(autouse=True)
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now_s", lambda: NOW_S)


@pytest.fixture
def rig() -> Iterator[IngestRig]:
    rig = IngestRig()
    yield rig
    rig.close()


@pytest.fixture
def persister(rig: IngestRig) -> Iterator[Persister]:
    persister = Persister(rig)
    rig.engine.held = lambda: bool(rig.control.flags & layout.FLAG_HOLD)
    yield persister
    vars(persister).clear()


WRITTEN_1 = b"written=1 rejected=0 ignored=0 durable=yes\n"


@pytest.mark.parametrize(("new", "late"), [("u64", "7"), ("f64", "0.1")])
def test_records_in_the_ring_in_a_batch_in_hand_and_in_a_frame_outlive_a_change_of_type(
    rig: IngestRig, persister: Persister, new: str, late: str
) -> None:
    machine = Changeover(ChangeGround(persister))  # type: ignore[arg-type]
    assert send(rig, line("load", "a", 1.25, T0)) == WRITTEN_1
    persister.drain()
    assert send(rig, line("load", "a", 1.5, T0 + 60)) == WRITTEN_1  # in the ring
    in_hand = TextSession(rig.engine)
    steps = in_hand.consume(HEADER + line("load", "b", 2.5, T0) + line("load", "a", -1.75, T0 + 120))
    rig.run_until(steps, NeedReferences)

    persister.configure(f'[metrics.load]\ntype = "{new}"\n')
    assert machine.begin() is State.EPOCHS
    persister.drain()
    waiting = TextSession(rig.engine)
    behind = waiting.consume(HEADER + line("load", "a", late, T0 + 240))
    rig.run_until(behind, NeedTurn)
    assert machine.step() is State.EPOCHS, "a worker has a batch in hand"
    rig.run_on(steps)
    assert in_hand.reply(True) == b"written=2 rejected=0 ignored=0 durable=yes\n"
    assert machine.step() is State.DRAINING, "its records are in the ring"
    persister.drain()
    assert machine.step() is State.IDLE
    assert not rig.control.flags & layout.FLAG_HOLD

    rig.run_on(behind)
    assert waiting.reply(True) == WRITTEN_1
    persister.drain()
    assert persister.stale == 0
    assert persister.values("a") == [("f32", [1.25, 1.5, -1.75]), (new, [float(late)])]
    assert persister.values("b") == [("f32", [2.5]), (new, [])]
    rig.directory.writer.validate()


def test_a_columns_frame_waits_for_its_turn_and_is_told_of_the_new_type(
    rig: IngestRig, persister: Persister
) -> None:
    machine = Changeover(ChangeGround(persister))  # type: ignore[arg-type]
    replies: list[m.Message] = []
    session = FramedSession(rig.engine, lambda _id, _ack, reply: replies.append(reply), lambda hello: hello)
    rig.run(session.handle(1, m.Hello(1, "ingest", cluster="c")))
    rig.run(session.handle(2, m.Open([["c", "a", "load", "", "", "", ""]])))
    value = np.float32(1.5).tobytes()
    for t in (T0, T0 + 60):
        rig.run(session.handle(3, m.Columns(bytes(4), np.int64(t).tobytes(), value, m.TYPE_F32)))
    persister.configure('[metrics.load]\ntype = "u64"\n')
    assert machine.begin() is State.DRAINING
    steps = session.handle(4, m.Columns(bytes(4), np.int64(T0 + 120).tobytes(), value, m.TYPE_F32))
    rig.run_until(steps, NeedTurn)
    persister.drain()
    assert machine.step() is State.IDLE
    rig.run_on(steps)
    assert isinstance(replies[-1], m.Error)
    assert replies[-1].code == "unknown_handle"
    persister.drain()
    assert persister.values("a") == [("f32", [1.5, 1.5]), ("u64", [])]
    assert persister.stale == 0


def test_a_change_of_step_waits_as_well(rig: IngestRig, persister: Persister) -> None:
    """What a worker found out of older eras holds until its batch ends; and what was sent before the change is before it."""
    machine = Changeover(ChangeGround(persister))  # type: ignore[arg-type]
    send(rig, line("load", "a", 1.25, T0))
    in_hand = TextSession(rig.engine)
    steps = in_hand.consume(HEADER + line("load", "b", 2.5, T0) + line("load", "a", 1.5, T0 + 60))
    rig.run_until(steps, NeedReferences)
    persister.configure("[metrics.load]\nstep = 10\n")
    assert machine.begin() is State.EPOCHS
    rig.run_on(steps)
    assert machine.step() is State.DRAINING
    persister.drain()
    assert machine.step() is State.IDLE
    assert rig.control.flags == 0
    assert send(rig, line("load", "a", 1.75, T0 + 90)) == WRITTEN_1
    persister.drain()
    assert persister.values("a") == [("f32", [1.25, 1.5]), ("f32", [1.75])]


def test_a_change_of_anything_but_a_type_or_a_step_holds_nobody(rig: IngestRig, persister: Persister) -> None:
    machine = Changeover(ChangeGround(persister))  # type: ignore[arg-type]
    send(rig, line("load", "a", 1.5, T0))
    for text in ('unit = "W"', 'aggregation = "sum"', 'type = "f32"', "step = 60", "step = 0"):
        persister.configure(f"[metrics.load]\n{text}\n")
        assert machine.begin() is State.IDLE
    assert rig.control.flags == 0


def test_workers_are_held_until_the_log_takes_the_new_eras(rig: IngestRig, persister: Persister) -> None:
    """Were they let go before, numbers of the new type could be logged ahead of the era they belong to."""
    machine = Changeover(ChangeGround(persister))  # type: ignore[arg-type]
    send(rig, line("load", "a", 1.5, T0))
    persister.drain()
    persister.refusal = StorageError("no space left")
    for text in ('type = "u64"', 'type = "f64"'):  # a second configuration while the first one waits
        persister.configure(f"[metrics.load]\n{text}\n")
        machine.begin()
        assert machine.step() is State.CHANGING
        assert rig.control.flags == layout.FLAG_HOLD
    persister.refusal = None
    while machine.step() is not State.IDLE:
        persister.drain()
    assert rig.control.flags == 0
    assert send(rig, line("load", "a", 0.1, T0 + 60)) == WRITTEN_1
    persister.drain()
    eras = persister.values("a")
    assert eras == [("f32", [1.5]), ("u64", []), ("f64", [0.1])]
    rig.directory.writer.validate()


def test_a_change_that_finds_no_room_lets_senders_go_on(
    rig: IngestRig, persister: Persister, caplog: pytest.LogCaptureFixture
) -> None:
    """The directory has no memory for another series, so no era begins; series keep their type, and are written to."""
    machine = Changeover(ChangeGround(persister))  # type: ignore[arg-type]
    n = 0
    while rig.directory.writer.counts()["n_series"] * layout.SERIES.itemsize % 65536 or not n:
        assert send(rig, line("load", f"h{n}", 1.5, T0)) == WRITTEN_1
        n += 1
    persister.drain()
    rig.directory.writer.commits_allowed = 0
    persister.configure('[metrics.load]\ntype = "u64"\n')
    machine.begin()
    assert machine.step() is State.IDLE
    assert rig.control.flags == 0
    assert not rig.directory.writer.unpublished
    assert rig.directory.writer.counts()["critical"] % 2 == 0
    assert send(rig, line("load", "h0", 2.5, T0 + 60)) == WRITTEN_1
    persister.drain()
    assert persister.values("h0") == [("f32", [1.5, 2.5])]
    assert "no room for another series" in caplog.text
    caplog.clear()  # the error that it keeps has the directory in its traceback


def test_a_worker_that_does_not_move_holds_senders_for_a_while_only(
    rig: IngestRig, persister: Persister, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changeover_ground, "_HOLD_S_MAX", 0.02)
    monkeypatch.setattr(changeover_ground, "_AGAIN_S", 0.02)
    send(rig, line("load", "a", 1.5, T0))
    persister.drain()
    in_hand = TextSession(rig.engine)
    steps = in_hand.consume(HEADER + line("load", "b", 2.5, T0))
    rig.run_until(steps, NeedReferences)
    persister.configure('[metrics.load]\ntype = "u64"\n')

    async def follow() -> None:
        follower = Follower(persister)  # type: ignore[arg-type]
        follower.follow()
        seen = {rig.control.flags}
        while len(seen) < 2 or rig.control.flags == 0:  # held, let go, held again
            await asyncio.sleep(0.001)
            seen.add(rig.control.flags)
        rig.run_on(steps)
        persister.drain()
        while persister.values("a")[-1][0] != "u64":
            await asyncio.sleep(0.001)
            persister.drain()

    asyncio.run(asyncio.wait_for(follow(), 20.0))
    assert rig.control.flags == 0
    assert persister.values("b") == [("f32", [2.5]), ("u64", [])]
    assert persister.stale == 0

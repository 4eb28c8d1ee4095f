"""A process forks in the midst of its work: the parent goes on, the child has connections of its own or is refused.

Each scene is a program of its own, which forks where others have been: calls under way, locks held. Its child ends with
status 0 if all it tried went as it should, and is ended by an alarm if anything hangs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mstore.ipc import messages as m
from mstore.shm import layout, segment
from mstore.shm.control import CONTROL_BYTES
from tests.query_rig import INSTANCE, T0, Store
from tests.unit.test_client_store import FakeStore, fake_store

PROLOGUE = """
import asyncio, gc, os, signal, sys, threading, time
import mstore
from mstore.errors import InvalidRequest

directory = sys.argv[1]

def refused(call, *args):
    try:
        call(*args)
    except InvalidRequest as error:
        assert "after the fork" in str(error), error
    else:
        raise AssertionError("not refused")

def forked(scene):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            scene()
            gc.collect()
            os._exit(0)
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    print("child done", flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FakeStore]:
    with fake_store(tmp_path) as found:
        yield found


def played(program: str, directory: Path, when_done: Callable[[], None] | None = None, *argv: str) -> int:
    """Run a scene to its end, `when_done` once its first child has ended; how many children ended well."""
    scene = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + program, str(directory), *argv],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    killer = threading.Timer(60, scene.kill)
    killer.start()
    try:
        assert scene.stdout is not None
        first = scene.stdout.readline()
        if first == "child done\n" and when_done is not None:
            when_done()
        rest, told = scene.communicate()
        assert scene.returncode == 0, told
        assert told == ""
        return (first + rest).count("child done\n")
    finally:
        killer.cancel()


def held(store: FakeStore, kind: type[m.Message]) -> Callable[[], None]:
    """Leave requests of a kind unanswered; what is returned lets them be answered, when they are sent again."""
    usual = store.usual

    def answer(message: m.Message) -> m.Message | str | None:
        return None if isinstance(message, kind) else usual(message)

    def let_go() -> None:
        store.answer = store.usual = usual
        store.drop_connections()

    store.answer = store.usual = answer
    return let_go


def connections_of(store: FakeStore, kind: type[m.Message]) -> list[int]:
    return [number for number, message in store.received if isinstance(message, kind)]


# --- a Writer


_SAMPLES_UNDER_WAY = """
client = mstore.connect(directory, timeout=15)
writer = client.writer()
handles = writer.open([("c", "h", "m")])
for k in range(5):
    writer.write(handles, [60 * k], [float(k)])

def scene():
    refused(writer.write, handles, [600], [9.0])
    refused(writer.rows, 0, [600_000], [9.0])
    refused(writer.open, [("c", "h", "n")])
    refused(writer.flush)
    writer.close()
    mine = client.writer()
    mine.write(mine.open([("c", "h", "child")]), [60], [1.0])
    assert mine.flush().written == 1

forked(scene)
writer.write(handles, [300], [5.0])
assert writer.flush().written == 6
"""


def test_samples_under_way_at_a_fork_are_sent_once_and_acknowledged_to_the_parent(store: FakeStore) -> None:
    played(_SAMPLES_UNDER_WAY, store.directory)
    sent = connections_of(store, m.Columns)
    (parents,) = {number for number in sent if sent.count(number) == 6}
    assert len(sent) == 7
    values = [
        np.frombuffer(message.values, "<f4").tolist()
        for number, message in store.received
        if number == parents and isinstance(message, m.Columns)
    ]
    assert values == [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]]
    assert store.requests(m.Cancel) == []


_FLUSH_IN_A_THREAD = """
client = mstore.connect(directory, timeout=15)
writer = client.writer()
handles = writer.open([("c", "h", "m")])
writer.write(handles, [60], [1.0])
found = []
thread = threading.Thread(target=lambda: found.append(writer.flush()))
thread.start()
while not writer._lock.locked():
    time.sleep(0.01)
forked(lambda: (refused(writer.write, handles, [120], [2.0]), writer.close()))
thread.join()
assert [one.written for one in found] == [1]
"""


def test_a_child_is_refused_at_once_while_a_thread_of_its_parent_has_the_writer(store: FakeStore) -> None:
    played(_FLUSH_IN_A_THREAD, store.directory, held(store, m.Columns))
    assert len(store.requests(m.Columns)) == 2, "once before its connection broke, once after"
    assert store.requests(m.Cancel) == []


# --- a subscription


_FOLLOWING = """
follow = mstore.connect(directory, timeout=15).follow("c/h", "m")

def scene():
    refused(follow.next, 1)
    refused(follow.resume, 0)
    follow.close()

forked(scene)
assert follow.next(0.05) is None
follow.close()
"""


def test_a_subscription_stays_with_the_parent(store: FakeStore) -> None:
    store.answer = lambda message: (
        m.FollowBegun(1, 0) if isinstance(message, m.Follow) else store.usual(message)
    )
    played(_FOLLOWING, store.directory)
    assert len(store.requests(m.Follow)) == 1, "the connection was never lost"
    assert len(store.requests(m.Cancel)) == 1, "of the parent, at its end"


# --- an AsyncClient


_CALLS_UNDER_WAY = """
async def parent():
    client = mstore.AsyncClient(directory, timeout=15)
    await client.ping()
    writer = client.writer()
    handles = await writer.open([("c", "h", "m")])
    slow = [asyncio.create_task(client.query("c", "h", f"m{k}", 0, 600)) for k in range(20)]
    await asyncio.sleep(0.2)
    assert client._slots.locked()

    async def childs():
        assert await client.info() == {"state": "ready"}
        assert [(await client.write("l")).written for _ in range(3)] == [1] * 3
        assert await asyncio.gather(*(client.info() for _ in range(40))) == [{"state": "ready"}] * 40
        try:
            await writer.write(handles, [60], [1.0])
        except InvalidRequest as error:
            assert "after the fork" in str(error)
        else:
            raise AssertionError("not refused")
        writer.close()
        await client.close()

    forked(lambda: asyncio.run(childs()))
    found = await asyncio.gather(*slow)
    assert [series.metric for series in found] == [f"m{k}" for k in range(20)]
    await writer.write(handles, [60], [1.0])
    assert (await writer.flush()).written == 1
    writer.close()
    await client.close()

asyncio.run(parent())
"""


def test_a_child_uses_an_asyncio_client_in_a_loop_of_its_own_while_the_parents_calls_go_on(
    store: FakeStore,
) -> None:
    played(_CALLS_UNDER_WAY, store.directory, held(store, m.Query))
    asked = set(connections_of(store, m.Query))
    assert not asked & set(connections_of(store, m.Info)), "no connection has two processes"
    assert store.requests(m.Cancel) == []
    assert len(store.requests(m.Columns)) == 1


# --- an attached Reader


_ATTACHED = """
start = int(sys.argv[2])
reader = mstore.attach(directory)
halt, rounds = threading.Event(), []

def ask():
    return reader.query("fritz", "f1", "load", start, start + 180).values.tolist()

def go_on():
    while not halt.is_set():
        rounds.append(ask())

threads = [threading.Thread(target=go_on) for _ in range(3)]
for thread in threads:
    thread.start()

def scene():
    assert all(ask() == [1.0, 2.0, 3.0] for _ in range(50))
    reader.close()

for _ in range(5):
    forked(scene)
n = len(rounds)
while len(rounds) < n + 10:
    time.sleep(0.001)
halt.set()
for thread in threads:
    thread.join()
assert all(one == [1.0, 2.0, 3.0] for one in rounds)
reader.close()
"""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """DIR of a store's memory that can be attached: a minute each of 1, 2, 3 from T0 on."""
    name = f"mstore-test-forks-{os.getpid()}"
    store = Store(name)
    control = segment.create(f"{name}-control", layout.SEG_CONTROL, CONTROL_BYTES, INSTANCE)
    control.mark_ready()
    store.put(store.open("load"), T0, [1.0, 2.0, 3.0])
    named = {
        "directory": store.directory_map.name,
        "samples": store.samples_map.name,
        "control": control.name,
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "instance.json").write_text(json.dumps({"instance": INSTANCE, "segments": named}))
    yield tmp_path
    store.close()
    control.close()
    segment.unlink(control.name)


def test_parent_and_child_read_the_memory_that_was_attached_before_the_fork(memory: Path) -> None:
    assert played(_ATTACHED, memory, None, str(T0)) == 5

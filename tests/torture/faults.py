"""The n-th call fails, for all n: once, or from then on until the fault goes.

A short life (a start from files, samples, definitions, a snapshot with retirement, a clean end) is run again and again;
each time another of its calls to the disk is refused, in every way that such a call can be. Whatever is refused:
  - only StorageError and Degraded come out,
  - what was published as durable is found again after a power cut,
  - when the fault has gone, the same life goes on: everything written becomes durable, by itself,
  - no descriptor stays open.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mstore.errors import Degraded, StorageError
from tests.torture.disk import Disk
from tests.torture.images import Judge, Promise, Violation, Writes
from tests.torture.workload import History, Life, drawn_from

_TEXT = (
    "intern drain commit drain drain commit mark intern drain commit take_snapshot drain drain commit drain drain"
    " commit remove drain commit drain free commit drain drain commit drain intern drain commit take_snapshot drain"
    " drain commit evict drain commit"
)
SCRIPT = _TEXT.split()
PERSISTS_FOR = 12
"""Actions of the script after which a lasting fault goes."""
WAYS = {
    **dict.fromkeys(("list", "open", "size", "read", "pread", "open_dir"), ("EIO",)),
    **dict.fromkeys(("rename", "unlink", "fsync", "fdatasync", "link"), ("EIO", "ENOSPC")),
    **dict.fromkeys(("create", "pwritev", "prewrite"), ("EIO", "ENOSPC", "EDQUOT", "short")),
}


@dataclass(frozen=True)
class Fault:
    """The n-th call of the second life, counted from 1."""

    n: int
    call: str
    way: str
    lasts: bool


def faults(seed: int) -> list[Fault]:
    """Every fault there is in the life of this seed."""
    calls: list[str] = []
    live(seed, None, calls)
    return [
        Fault(n, call, way, lasts)
        for n, call in enumerate(calls, start=1)
        for way in WAYS[call]
        for lasts in (False, True)
    ]


def live(seed: int, fault: Fault | None, calls: list[str] | None = None) -> None:
    """One story with one fault. Raises Violation."""
    told = f"seed {seed}, {fault}"
    disk, history = Disk(seed=seed), History()
    with drawn_from(random.Random(f"ids {seed}")):
        rng = random.Random(seed)
        first = Life(disk, history, rng, n_spares=1)
        for what in SCRIPT[:12]:
            _act(first, what)
        first.end(clean=False)
        trouble = _Trouble(fault, calls)
        disk.fault = trouble
        life = _start(disk, history, rng, trouble)
        for place, what in enumerate(SCRIPT):
            _act(life, what)
            if trouble.began and place >= trouble.acted + PERSISTS_FOR:
                trouble.over = True
            if not trouble.began:
                trouble.acted = place
        trouble.over = True
        disk.fault = trouble if calls is not None else None
        _resumes(life, told)
        judge = Judge(seed, history)
        _cut(judge, disk, f"{told}, before the end")
        life.end(clean=True)
        if disk.n_open():
            raise Violation(f"{told}: {disk.n_open()} descriptors stay open")
        judge.check_memory()
        _cut(judge, disk, told)


def _act(life: Life, what: str) -> None:
    """Something is sent before each drain, into one ring or the other."""
    if what == "drain":
        life.act("send")
    life.act(what)


def _cut(judge: Judge, disk: Disk, told: str) -> None:
    """The power goes now: everything promised so far is found again."""
    promise = Promise(writes=Writes(judge.history.sent))
    for operation in disk.journal:
        if operation[0] == "mark":
            promise.follow(*operation[1:])
    image = disk.state.after_power_cut(random.Random(told))
    judge.check(Disk(image), promise, told)


class _Trouble:
    def __init__(self, fault: Fault | None, calls: list[str] | None) -> None:
        self._fault = fault
        self._calls = calls
        self._n = 0
        self.began = False
        self.over = False
        self.acted = 0

    def __call__(self, name: str, _disk: Disk) -> str:
        self._n += 1
        if self._calls is not None:
            self._calls.append(name)
        fault = self._fault
        if fault is None or self.over:
            return ""
        if self._n == fault.n:
            self.began = True
            return fault.way
        return fault.way if fault.lasts and self.began and fault.way in WAYS[name] else ""


def _start(disk: Disk, history: History, rng: random.Random, trouble: _Trouble) -> Life:
    """A start may be refused; then the fault goes, and the next one works."""
    state = rng.getstate()
    try:
        return Life(disk, history, rng, n_spares=1)
    except (StorageError, Degraded):
        trouble.over = True
        disk.forget_descriptors()
        rng.setstate(state)
        return Life(disk, history, rng, n_spares=1)


def _resumes(life: Life, told: str) -> None:
    """New samples are taken and become durable, without a restart."""
    for _ in range(3 + max(map(len, life.waiting))):  # a drain takes a batch of each ring at least
        _act(life, "drain")
        for _ in range(20):
            life.act("poll")
            life.act("commit")
    if life.unlogged or life.wal.durable() != life.wal.written or life.wal.failure:
        raise Violation(
            f"{told}: the fault has gone, block {life.wal.durable()} of {life.wal.written} is durable,"
            f" {life.wal.failure!r}"
        )
    if any(life.waiting) or any(life.written):
        raise Violation(f"{told}: {life.waiting} were sent and {life.written} drained, and are not durable")


def held_back_until_there_is_room(seed: int) -> int:
    """A disk on which nothing can be allocated: no append, no acknowledgement, all data; until there is room.

    returns  blocks of the log in the end
    """
    rng = random.Random(seed)
    disk, history = Disk(seed=seed), History()
    life = Life(disk, history, rng, n_spares=0)
    disk.fault = _full
    for _ in range(60):
        life.act(rng.choice(("send", "drain", "intern", "commit")))
    refused = sum(1 for _ in range(3) if not _appends(life))
    assert refused == 3, "the log is full"
    held = life.wal.written
    life.end(clean=False)
    disk.fault = _full
    life = Life(disk, history, rng, n_spares=0)  # starts: what is there can be served
    assert life.wal.failure
    assert life.wal.written == held
    assert not _appends(life)
    disk.fault = None
    _act(life, "drain")
    life.act("commit")
    assert life.wal.durable() == life.wal.written > held
    life.end(clean=True)
    return life.wal.written


def _full(name: str, _disk: Disk) -> str:
    return "ENOSPC" if name in ("create", "prewrite") else ""


def _appends(life: Life) -> bool:
    before = life.wal.written
    _act(life, "drain")
    return life.wal.written > before

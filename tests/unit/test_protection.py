"""Who is protected: records and back, by several sources, until a time; the same live, replayed and restored."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from mstore import clock
from mstore.apply.protection import Protection
from mstore.errors import CorruptRecord
from mstore.shm import layout
from mstore.shm.protection import (
    FOR_GOOD_S,
    NOT_S,
    Protected,
    Source,
    decode,
    encode,
    holds_protection,
)
from tests.directory_rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    for host in ("f1", "f2", "f3"):
        made.ref(f"load,cluster=fritz,hostname={host}".encode())
    yield made
    made.close()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seconds = [1_700_000_000]
    monkeypatch.setattr(clock, "now_s", lambda: seconds[0])
    return seconds


def flags(rig: Rig) -> list[str]:
    levels = [rig.reader.level(level) for level in range(rig.reader.counts()["n_levels"])]
    return sorted(level.name for level in levels if level.protected)


def apply(protection: Protection, records: bytes) -> None:
    for record in holds_protection(memoryview(records)):
        protection.apply(record)


def test_records_say_what_they_were_made_of_however_many_hosts_there_are(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(30):
        hosts = [f"h{rng.randrange(10 ** rng.randint(1, 250))}é"[:200] for _ in range(rng.randrange(1, 2000))]
        records = encode(Source.URL, rng.choice((0, 5, FOR_GOOD_S)), "clüster", hosts)
        found = [decode(record) for record in holds_protection(memoryview(records))]
        assert [host for one in found for host in one.hosts] == hosts
        assert {(one.source, one.cluster) for one in found} == {(Source.URL, "clüster")}
        assert len(records) % 8 == 0
    assert encode(Source.FILE, 1, "c", []) == b""


def test_a_damaged_record_is_refused_whatever_byte_is_hurt_or_said_differently() -> None:
    record = bytearray(encode(Source.FILE, 77, "fritz", ["f0101", "f0102"]))
    whole = decode(memoryview(bytes(record)))
    assert whole == Protected(Source.FILE, 77, "fritz", ("f0101", "f0102"))
    n_refused = 0
    for at in range(len(record)):
        for bit in (0, 7):
            hurt = bytearray(record)
            hurt[at] ^= 1 << bit
            try:
                decode(memoryview(bytes(hurt)))  # another name or time is no matter of form
            except CorruptRecord:
                n_refused += 1
    assert n_refused > 20
    for cut in (0, 8, 23, 24, 30, len(record) - 9):
        with pytest.raises(CorruptRecord):
            decode(memoryview(bytes(record[:cut])))


def test_a_host_is_protected_as_long_as_one_source_says_so(rig: Rig, now: list[int]) -> None:
    protection = Protection(rig.writer)
    apply(protection, encode(Source.FILE, FOR_GOOD_S, "fritz", ["f1", "f2"]))
    apply(protection, encode(Source.URL, FOR_GOOD_S, "fritz", ["f2", "f9"]))
    assert flags(rig) == ["f1", "f2"]
    assert protection.hosts() == {"fritz": ["f1", "f2", "f9"]}
    apply(protection, encode(Source.FILE, NOT_S, "fritz", ["f1", "f2"]))
    assert flags(rig) == ["f2"]
    rig.ref(b"load,cluster=fritz,hostname=f9")
    assert flags(rig) == ["f2", "f9"], "it had no level when it was protected"
    apply(protection, encode(Source.URL, NOT_S, "fritz", ["f2", "f9"]))
    assert flags(rig) == []
    assert len(protection) == 0


def test_a_time_that_was_given_ends_the_protection_and_a_later_one_prolongs_it(
    rig: Rig, now: list[int]
) -> None:
    protection = Protection(rig.writer)
    apply(protection, encode(Source.COMMAND, now[0] + 100, "fritz", ["f1", "f2"]))
    apply(protection, encode(Source.COMMAND, now[0] + 300, "fritz", ["f2"]))
    now[0] += 100
    assert protection.expire() == 1
    assert flags(rig) == ["f2"]
    apply(protection, encode(Source.COMMAND, now[0] - 1, "fritz", ["f3"]))
    assert flags(rig) == ["f2"], "a record that is replayed late says nothing that still holds"
    now[0] += 200
    assert protection.expire() == 1
    assert flags(rig) == []
    assert b"".join(protection.records()) == b""


def test_a_plan_names_only_what_changes(rig: Rig, now: list[int]) -> None:
    protection = Protection(rig.writer)
    first = protection.plan(Source.FILE, {"fritz": ["f1", "f2"], "alex": ["a1"]})
    apply(protection, first)
    assert protection.plan(Source.FILE, {"alex": ["a1"], "fritz": ["f2", "f1"]}) == b""
    change = protection.plan(Source.FILE, {"fritz": ["f2", "f3"]})
    said = [decode(record) for record in holds_protection(memoryview(change))]
    assert [(one.until_s, one.cluster, one.hosts) for one in said] == [
        (FOR_GOOD_S, "fritz", ("f3",)), (NOT_S, "alex", ("a1",)), (NOT_S, "fritz", ("f1",)),
    ]  # fmt: skip
    apply(protection, change)
    assert protection.hosts(Source.FILE) == {"fritz": ["f2", "f3"]}
    assert protection.plan(Source.URL, {}) == b"", "what one source says is no other's to take back"


def test_a_dump_and_what_followed_it_give_the_table_as_it_is(seed: int, now: list[int]) -> None:
    """Also when the dump was taken later than the log is replayed from: what it saw early changes nothing."""
    rng = random.Random(seed)
    for _ in range(20):
        live, restored = Rig(), Rig()
        protection, log, dumps = Protection(live.writer), [], []
        for _ in range(60):
            hosts = [f"f{rng.randrange(12)}" for _ in range(rng.randrange(1, 5))]
            until_s = rng.choice((NOT_S, FOR_GOOD_S, now[0] + rng.randrange(-50, 500)))
            log.append(encode(rng.choice(list(Source)), until_s, rng.choice("ab"), hosts))
            apply(protection, log[-1])
            dumps.append(b"".join(protection.records()))
        since = rng.randrange(60)
        again = Protection(restored.writer)
        apply(again, dumps[rng.randrange(since, 60)])
        for records in log[since + 1 :]:
            apply(again, records)
        assert again.hosts() == protection.hosts()
        assert [again.hosts(source) for source in Source] == [protection.hosts(source) for source in Source]
        again.forget()
        assert again.hosts() == {}
        live.close()
        restored.close()


def test_series_of_protected_hosts_are_told_from_all_others(rig: Rig) -> None:
    rig.ref(b"load,cluster=fritz,hostname=f2,type=core,type-id=1")
    rig.ref(b"load,cluster=fritz,hostname=f2,type=core,type-id=1,stype=x,stype-id=2")
    rig.ref(b"load,cluster=other,hostname=f2")
    rig.remove(0)
    rig.writer.protect(b"fritz", b"f2")
    names = [
        rig.reader.path(info.level).host if (info := rig.reader.series(slot)) else "" for slot in range(6)
    ]
    clusters = [
        rig.reader.path(info.level).cluster if (info := rig.reader.series(slot)) else "" for slot in range(6)
    ]
    expected = [
        int((cluster, host) == ("fritz", "f2")) for cluster, host in zip(clusters, names, strict=True)
    ]
    assert rig.reader.protected_series().tolist() == expected == [0, 1, 0, 1, 1, 0]
    assert rig.reader.protected_series(np.array([4, 2, 0], np.uint32)).tolist() == [1, 0, 0]


def test_the_record_is_of_the_type_that_the_layout_says() -> None:
    record = np.frombuffer(encode(Source.COMMAND, 1, "c", ["h"]), layout.RECORD, 1)[0]
    assert (int(record["type"]), int(record["vtype"])) == (26, 3)

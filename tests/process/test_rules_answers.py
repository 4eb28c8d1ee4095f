"""What an answer is, rule by rule, the same from the blocking client, the asyncio client and an attached program."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

import mstore
from mstore.errors import (
    InvalidRequest,
    InvalidStep,
    InvalidTimeRange,
    MstoreError,
    NotAggregatable,
    UnknownMetric,
)
from mstore.frames import Series
from mstore.tables import Paths, Table
from tests.stores import Server, until

Serve = Callable[..., Server]

CONFIG = """
retention = "0"
unknown_metrics = "register"
[metrics.total]
aggregation = "sum"
unit = "W"
[metrics.only]
aggregation = "none"
[metrics.count]
type = "u64"
aggregation = "sum"
[metrics.exact]
type = "f64"
"""


class Everywhere:
    """Asks all three ways and insists on one answer."""

    def __init__(self, server: Server) -> None:
        self._directory = server.directory
        self.client = server.client()
        self.reader = mstore.attach(server.directory)

    def __enter__(self) -> Everywhere:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if hasattr(self, "reader"):
            self.reader.close()

    def warm(self) -> None:
        """Make the connections that the blocking client keeps, so that no test of many is the one that opened them."""
        self.client.ping()
        self.client.write("\n")
        self.client.free("nobody", 0)

    def let_go(self) -> None:
        """An attached program's memory is given back when nobody holds it."""
        self.reader.close()
        del self.reader

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        async def asynchronously() -> Any:
            async with await mstore.connect_async(self._directory) as client:
                return await getattr(client, method)(*arguments, **options)

        answers = [
            outcome(lambda: getattr(self.client, method)(*arguments, **options)),
            outcome(lambda: asyncio.run(asynchronously())),
            outcome(lambda: getattr(self.reader, method)(*arguments, **options)),
        ]
        shown = [described(one) for one in answers]
        assert shown[0] == shown[1] == shown[2]
        if isinstance(answers[0], MstoreError):
            raise answers[0]
        return answers[0]

    def query(self, host: str, metric: str, start: Any, end: Any, **options: Any) -> Any:
        return self.ask("query", "c", host, metric, start, end, **options)


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except MstoreError as error:
        return error


def described(found: Any) -> Any:
    """Everything an answer says, as plain values that compare."""
    if isinstance(found, list):
        return [described(one) for one in found]
    if isinstance(found, MstoreError):
        return type(found)
    if isinstance(found, Series):
        return (
            found.to_wire()[0], found.values.tobytes(), found.values.dtype.str, found.start, found.step,
            found.valid.tolist(), found.times.tolist(), None if found.coverage is None else found.coverage.tolist(),
        )  # fmt: skip
    if isinstance(found, Table):
        return found.to_wire()
    if isinstance(found, Paths):
        return found.texts
    if hasattr(found, "to_json"):
        return found.to_json()
    if hasattr(found, "origin"):
        return tuple(
            getattr(found, name) for name in ("cluster", "name", "step_s", "unit", "type", "kind", "origin")
        )
    return found


def lines(metric: str, core: str | None, t: int, *values: object, step: int = 60) -> str:
    level = "" if core is None else f",type=core,type-id={core}"
    return "".join(
        f"{metric},cluster=c,hostname=h{level} value={v} {t + step * k}\n" for k, v in enumerate(values)
    )


def plain(values: Any) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def test_an_answer_covers_the_half_open_range_with_an_entry_for_every_id_asked(
    serve: Serve, now: int
) -> None:
    server = serve(CONFIG)
    t0 = now - 600
    with Everywhere(server) as store:
        store.client.write(lines("m", "10", t0, 10, 11) + lines("m", "2", t0, 2, 3) + lines("m", None, t0, 1))
        ids = ["10", "7", "2", "10"]
        found = store.query("h", "m", t0, t0 + 180, type="core", type_ids=ids)
        assert [one.type_id for one in found] == ids
        assert [plain(one.values) for one in found] == [
            [10, 11, None],
            [None] * 3,
            [2, 3, None],
            [10, 11, None],
        ]
        assert [one.why for one in found] == ["", "no such id", "", ""]
        every = store.query("h", "m", t0, t0 + 60, type="core")
        assert [(one.type_id, one.values.tolist()) for one in every] == [("2", [2]), ("10", [10])]
        one = store.query("h", "m", t0, t0 + 60, type="core", type_ids="2")
        assert (one.values.tolist(), one.valid.tolist()) == ([2], [True])
        # [from, to): a slot belongs to the range by its nominal time.
        for start, end, times in (
            (t0, t0 + 60, [t0]), (t0 + 1, t0 + 61, [t0 + 60]), (t0 - 60, t0 + 1, [t0 - 60, t0]), (t0, t0, []),
            (t0 + 1, t0 + 60, []),
        ):  # fmt: skip
            assert store.query("h", "m", start, end).times.tolist() == times
        away = store.query("h", "m", t0 - 10**7, t0 - 10**7 + 120)
        assert (away.why, len(away), away.valid.any()) == ("no samples in range", 2, False)
        absent = store.query("nobody", "m", t0, t0 + 120, type="core", type_ids=["2", "10"])
        assert [(one.why, len(one), one.valid.any()) for one in absent] == [("no such host", 2, False)] * 2
        assert store.query("nobody", "m", t0, t0 + 120, type="core")[0].why == "no such host"
        assert store.query("h", "m", t0, t0 + 120, type="socket") == []
        with pytest.raises(InvalidTimeRange):
            store.query("h", "m", t0 + 1, t0)
        with pytest.raises(UnknownMetric):
            store.query("h", "no_such_metric", t0, t0 + 60)
        with pytest.raises(InvalidRequest):
            store.query("h", "m", t0, t0 + 60, type_ids=["2"])
        for resolution in (-60, 90, 2**31):
            with pytest.raises(InvalidStep):
                store.query("h", "m", t0, t0 + 60, resolution=resolution)


def test_an_aggregate_is_float64_with_coverage_however_many_series_it_has(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    t0 = now - 600
    with Everywhere(server) as store:
        store.client.write(
            lines("total", "0", t0 + 7, 1, 2, 4) + lines("total", "1", t0 - 9, 10, 20) + lines("only", "0", t0, 5)
            + lines("count", "0", t0, 2**53 + 1, 7) + lines("only", "3", t0, 6)
        )  # fmt: skip
        for ids, values, coverage in (
            (None, [11, 22, 4], [2, 2, 1]), (["0"], [1, 2, 4], [1, 1, 1]), ("0", [1, 2, 4], [1, 1, 1]),
            (["1", "9", "0"], [11, 22, 4], [2, 2, 1]), (["9"], [None] * 3, [0, 0, 0]),
        ):  # fmt: skip
            both = store.query("h", "total", t0, t0 + 180, type="core", type_ids=ids, aggregate=True)
            assert (plain(both.values), both.coverage.tolist(), both.values.dtype) == (
                values,
                coverage,
                np.float64,
            )
            assert (both.aggregation, both.unit) == ("sum", "W")
        # The phase is that of the series that came first, each other one falls into its nearest slot.
        assert store.query("h", "total", t0, t0 + 180, type="core", aggregate=True).start == t0 + 7
        assert store.query("h", "total", t0, t0 + 180, type="core", type_ids="1").start == t0 + 51
        assert store.query("h", "total", t0, t0 + 180).values.tolist() == [11, 22, 4]
        alone = store.query("h", "count", t0, t0 + 180, type="core", aggregate=True)
        assert (plain(alone.values), alone.values.dtype, alone.coverage.tolist()) == (
            [2.0**53, 7, None], np.float64, [1, 1, 0],
        )  # fmt: skip
        one = store.query("h", "only", t0, t0 + 60, type="core", type_ids=["3"], aggregate=True)
        assert (one.values.tolist(), one.coverage.tolist()) == ([6], [1])
        with pytest.raises(NotAggregatable):
            store.query("h", "only", t0, t0 + 60, type="core", aggregate=True)


def test_the_coarsest_step_is_the_step_of_an_aggregate(serve: Serve, now: int) -> None:
    server = serve(
        'retention = "0"\nunknown_metrics = "register"\n[metrics.m]\nstep = 10\naggregation = "sum"\n'
    )
    t0 = (now - 600) // 60 * 60
    with server.client() as client:
        client.write(lines("m", "0", t0, *range(1, 13), step=10))
        text = 'retention = "0"\nunknown_metrics = "register"\n[metrics.m]\nstep = 60\naggregation = "sum"\n'
        (server.directory / "mstore.toml").write_text(text)
        client.control("reload")
        until(lambda: client.metrics("c")[0].step_s == 60, "the step")
        client.write(lines("m", "1", t0 + 300, 100, 200) + lines("m", "0", t0 + 300, 1000, 2000))
    with Everywhere(server) as store:
        both = store.query("h", "m", t0 + 290, t0 + 400, type="core", aggregate=True)
        assert (both.step, both.times.tolist()[-1] - both.times.tolist()[0]) == (60, 60)
        assert both.values.tolist() == [1100, 2200]


def test_values_come_back_bit_for_bit_or_rounded_once(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    texts = (
        "-0.0", "1e-320", "5e-324", "0.12345678901234567", "3.4028234663852886e38", "1.401298464324817e-45", "17i",
        "-17i", "9007199254740993i", "1e5", "+2.5",
    )  # fmt: skip
    with Everywhere(server) as store:
        result = store.client.write(
            lines("exact", None, now - 3600, *texts) + lines("m", None, now - 3600, *texts)
        )
        assert result.written == 2 * len(texts)
        numbers = np.array([float(text.rstrip("i")) for text in texts])
        span = (now - 3600, now - 3600 + 60 * len(texts))
        assert store.query("h", "exact", *span).values.tobytes() == numbers.tobytes()
        assert store.query("h", "m", *span).values.tobytes() == numbers.astype(np.float32).tobytes()
        refused = store.client.write(
            lines("m", "f", now, "3.4028235677973366e38", "-1e39") + lines("exact", "f", now, "1e309")
            + lines("count", None, now - 600, 2**64 - 2, "18446744073709551614u", 0)
            + lines("count", "f", now, -1, "1.5", "18446744073709551615u", "-3i")
        )  # fmt: skip
        assert (refused.written, dict(refused.reasons)) == (3, {"out_of_range": 7})
        counted = store.query("h", "count", now - 600, now - 360)
        assert counted.values.tolist() == [2**64 - 2, 2**64 - 2, 0, 0]
        assert counted.valid.tolist() == [True, True, True, False]


def test_timestamps_are_told_apart_by_magnitude_at_its_borders(serve: Serve, now: int) -> None:
    # Steps so long that one series reaches from the first second to the year 5138.
    server = serve('retention = "0"\nmax_future = "200000w"\ndefault_step = 86400\n')
    stamps = {
        0: 0, 10**11 - 1: 10**11 - 1, 10**11: 10**8, 10**14 - 1: 10**11 - 1, 10**14: 10**8, 10**17 - 1: 10**11 - 1,
        10**17: 10**8, 2**63 - 1: (2**63 - 1) // 10**9,
    }  # fmt: skip
    with server.client() as client, mstore.attach(server.directory) as reader:
        for i, (stamp, second) in enumerate(stamps.items()):
            assert client.write(f"m,cluster=c,hostname=h{i} value={i + 1} {stamp}\n").written == 1
            assert next(reader.chunks("c", f"h{i}", "m")).start == second
        for precision, stamp in (("s", now), ("ms", now * 1000), ("us", now * 10**6), ("ns", now * 10**9)):
            client.write(f"m,cluster=c,hostname={precision} value=1 {stamp}\n", precision=precision)
            assert client.query("c", precision, "m", now, now + 1).values.tolist() == [1]
        bad = ("-1", "9" * 19, "1" * 20, "1.5", "1e9", "0x10")
        refused = client.write("".join(f"m,cluster=c,hostname=h value=1 {stamp}\n" for stamp in bad))
        assert dict(refused.reasons) == {"bad_timestamp": len(bad)}
        before = int(datetime.now(UTC).timestamp())
        client.write("m,cluster=c,hostname=unstamped value=1\n")
        got = client.query("c", "unstamped", "m", before, "now+1s")
        assert got.values.tolist() == [1]


def test_every_kind_of_time_argument_is_the_same_second(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    t0 = now - 7200
    aware = datetime.fromtimestamp(t0, timezone(timedelta(hours=5, minutes=30)))
    naive = datetime.fromtimestamp(t0, UTC).replace(tzinfo=None)
    with Everywhere(server) as store:
        store.client.put("c", "h", {"m": 1.5}, aware)
        for start in (
            t0,
            float(t0),
            np.int64(t0),
            aware,
            naive,
            naive.isoformat(),
            aware.isoformat(),
            str(t0),
        ):
            assert store.query("h", "m", start, t0 + 1).values.tolist() == [1.5]
        found = store.client.query("c", "h", "m", "-3h", "-1h")
        assert (found.values[found.valid].tolist(), len(found)) == ([1.5], 120)
        for wrong in ("yesterday", now * 1000, float("nan"), True, None):
            with pytest.raises(InvalidTimeRange):
                store.query("h", "m", wrong, now)


def test_names_are_ids_and_never_paths_and_each_level_is_found_by_its_parts(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    longest = "ä" * 127 + "x"
    ids = ["/home", "%", "00000000:49:00.0", "..", "a b", "a,b=c", "\\x", longest]
    with Everywhere(server) as store:
        for i, name in enumerate(ids):
            assert store.client.put("c", "h", {"m": i}, now, type="filesystem", type_id=name).written == 1
        assert store.client.put("c", "h", {"m": 1}, now, type="t", type_id=longest + "y").reasons == {
            "too_long": 1
        }
        found = store.query("h", "m", now, now + 1, type="filesystem", type_ids=ids)
        assert [one.values.tolist() for one in found] == [[i] for i in range(len(ids))]
        assert sorted(store.ask("children", "c", "h")) == sorted("filesystem" + name for name in ids)
        store.client.write(
            f"n,cluster=c,hostname=h,type=core value=1 {now}\nn,cluster=c,hostname=h,type-id=7 value=2 {now}\n"
            f"n,cluster=c,host=x,hostname=k value=3 {now}\nn,cluster=c,hostname=x,host=k2 value=4 {now}\n"
        )
        assert store.query("h", "n", now, now + 1, type="core", type_ids="").values.tolist() == [1]
        assert store.query("h", "n", now, now + 1, type="", type_ids="7").values.tolist() == [2]
        assert [store.query(host, "n", now, now + 1).values.tolist() for host in ("k", "k2")] == [[3], [4]]
        assert store.query("x", "n", now, now + 1).why == "no such host"


def test_what_put_wrote_is_found_by_the_names_it_was_given(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    names = ["a=b", "a,b c", "a\\,b", "\\=", "a\\ ", "µ", 'x"y']
    with Everywhere(server) as store:
        for i, name in enumerate(names):
            assert store.client.put("c=1", "#" + name, {name: i}, now, type="a=b", type_id=name).written == 1
        for i, name in enumerate(names):
            found = store.ask("query", "c=1", "#" + name, name, now, now + 1, type="a=b", type_ids=name)
            assert (found.values.tolist(), found.why) == ([i], "")
        assert {one.name for one in store.ask("metrics", "c=1")} == set(names)


def test_lists_of_names_and_definitions_are_the_same_from_everywhere(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    with Everywhere(server) as store:
        store.client.write(
            "".join(lines("m", core, now, 1).replace("=h,", f"=h{host},") for core in "1" for host in (10, 2))
            + f"first,cluster=c,hostname=h2,unit=kB value=1 {now}\nfirst,cluster=c,hostname=h2,unit=MB value=1 {now}\n"
            + f"total,cluster=c,hostname=h2,unit=kW value=1 {now}\n"
        )
        assert store.ask("children") == ["c"]
        assert store.ask("children", "c") == ["h2", "h10"]
        assert store.ask("paths", 3) == [("c", "h2", "core1"), ("c", "h10", "core1")]
        for depth in (-1, 5):
            with pytest.raises(InvalidRequest):
                store.ask("paths", depth)
        assert {one.name: one.unit for one in store.ask("metrics", "c")} == {
            "m": "",
            "first": "kB",
            "total": "W",
        }
        assert [store.query("h2", name, now, now + 1).unit for name in ("first", "total")] == ["kB", "W"]
        assert store.query("nobody", "first", now, now + 1).unit == "kB"
        assert store.ask("metrics", "nowhere") == []


@pytest.mark.parametrize("form", ["table", "plot", "json"])
def test_the_unit_is_shown_with_every_table_and_plot(serve: Serve, now: int, form: str) -> None:
    server = serve(CONFIG)
    with server.client() as client:
        client.write(
            lines("total", None, now - 120, 1, 2)
            + lines("first", None, now - 120, 3).replace("h ", "h,unit=kB ")
        )
    for metric, unit in (("total", "W"), ("first", "kB")):
        done = subprocess.run(
            [sys.executable, "-m", "mstore", "query", "c", "h", metric, "--from", "-5m", "--format", form],
            env={**os.environ, "MSTORE_DIR": str(server.directory)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert (f'"unit": "{unit}"' if form == "json" else f"[{unit}]") in done.stdout

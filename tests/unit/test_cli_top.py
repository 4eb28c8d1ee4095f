"""`mstore top`: what its model makes of looks at a store, its frames at any size, and the keys of its terminal."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mstore.cli import common, top
from mstore.cli import main as cli
from mstore.cli.top_frame import HEIGHT_MIN, WIDTH_MIN, frame, plain
from mstore.cli.top_looks import Choice, HostValues, Ill, Look, Model, take
from mstore.errors import MissingLibrary, Unavailable
from tests.jobs_rig import N, filled, reader, store_name
from tests.query_rig import T0, Store

NOW_S = T0 + 60 * N


def info(n: int = 0, started_s: int = NOW_S - 3700, **more: Any) -> dict[str, Any]:
    """A store's own figures at its n-th second of traffic."""
    return {
        "version": "0.1.0", "dir": "/srv/m", "state": "ready", "now_s": NOW_S, "started_s": started_s,
        "counts": {"live_series": 20_000},
        "memory": {"segments": {
            "samples": {"used_bytes": 3 << 30, "allocated_bytes": 4 << 30, "reserved_bytes": 8 << 30},
            "ring-0": {"allocated_bytes": 16 << 20, "reserved_bytes": 16 << 20},
            "ring-1": {"allocated_bytes": 16 << 20, "reserved_bytes": 16 << 20},
        }},
        "log": {"written_seq": 1200, "durable_seq": 1199, "snapshots": 1, "snapshot_s": NOW_S - 600},
        "counters": {"lines": 5000 * n, "samples": 7000 * n, "fsyncs": 10 * n, "fsync_us_total": 25_000 * n},
        "workers": [{"kind": "ingest", "index": 0, "pid": 77, "started_s": NOW_S - 95, "connections": 2}],
        **more,
    }  # fmt: skip


def values(n_hosts: int, **more: Any) -> HostValues:
    hosts = [f"f{i:04}" for i in range(1, n_hosts + 1)]
    found = np.arange(n_hosts, dtype=np.float64)
    courses = {host: np.linspace(0, i, 20) for i, host in enumerate(hosts)} if n_hosts <= 60 else {}
    return HostValues("cpu_load", "procs", hosts, found, NOW_S - 3, more.pop("courses", courses), **more)


def look(n: int = 0, n_hosts: int = 4, at_s: float | None = None, **more: Any) -> Look:
    ill = [Ill("f0002", "failed", ()), Ill("f0001", "partial", ("mem_bw", "flops_any"))]
    state = {"full": max(0, n_hosts - 2), "partial": 1, "failed": 1}
    at = float(n) if at_s is None else at_s
    return Look(
        at, info(n, **more), ["fritz", "tiny"], "fritz", ["cpu_load", "mem_bw"], values(n_hosts), state, ill
    )


def model(*looks: Look) -> Model:
    made = Model()
    for one in looks:
        made.add(one)
    return made


def screen(made: Model, width: int = 80, height: int = 23) -> str:
    return "\n".join(plain(line) for line in frame(made, width, height, utc=True))


# --- the model


def test_rates_are_those_between_the_last_two_looks() -> None:
    made = model(look(0), look(1), look(2, at_s=3.0))
    assert made.rate("lines") == 2500
    assert list(made.rates["samples"]) == [7000, 3500]
    assert made.fsync_ms == 2.5


def test_counters_of_a_store_that_was_started_again_are_no_rate() -> None:
    made = model(look(5), look(6), look(1, at_s=7.0, started_s=NOW_S))
    assert list(made.rates["lines"]) == [5000]
    assert made.note == "the store was started again"
    assert "the store was started again" in screen(made)
    made.add(look(99, at_s=99.0, started_s=NOW_S))
    assert "the store was started again" not in screen(made)  # a minute later


def test_a_store_that_does_not_answer_is_said_until_it_answers_again() -> None:
    made = model(look(0))
    made.failed("no store answers", 1.0)
    made.failed("no store answers at all", 3.0)
    assert "no store answers at all\ntrying again; what is below was seen last" in screen(made)
    assert "cpu_load" in screen(made)
    made.add(look(5))
    assert (made.trouble, made.note) == ("", "answers again, after 4 s")


def test_an_answer_that_takes_long_is_said_while_it_is_waited_for() -> None:
    made = model(look(0))
    made.late_s = 4.2
    assert "no answer for 4 s" in screen(made)
    made.add(look(1))
    assert "no answer" not in screen(made)


def test_metrics_and_clusters_go_round() -> None:
    made = model(look(0))
    seen = []
    for _ in range(3):
        made.next_metric()
        seen.append(made.choice.metric)
    assert seen == ["mem_bw", "cpu_load", "mem_bw"]
    made.next_metric(-1)
    made.next_cluster()
    assert (made.choice.metric, made.choice.cluster) == ("cpu_load", "tiny")


# --- frames


@pytest.mark.parametrize("size", [(80, 23), (200, 49), (WIDTH_MIN, HEIGHT_MIN), (81, 30), (400, 100)])
@pytest.mark.parametrize("n_hosts", [0, 1, 2, 16, 60, 61, 1000, 20_000])
def test_frames_fit_the_terminal_for_any_number_of_hosts(size: tuple[int, int], n_hosts: int) -> None:
    lines = frame(model(look(0, n_hosts), look(1, n_hosts)), *size)
    assert len(lines) == size[1]
    assert max(len(plain(line)) for line in lines) <= size[0]


def test_frames_of_random_values_and_sizes_fit(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(150):
        n, width, height = rng.randrange(1, 300), rng.randrange(WIDTH_MIN, 250), rng.randrange(HEIGHT_MIN, 70)
        hosts = ["h" * rng.randrange(1, 40) + str(i) for i in range(n)]
        found = np.array([rng.choice([0.0, -1e30, 1e300, 7.25, float("nan"), rng.random()]) for _ in hosts])
        courses = {
            host: np.array([rng.choice([1.0, float("nan")])] * rng.randrange(1, 9)) for host in hosts[:60]
        }
        shown = HostValues("m" * rng.randrange(1, 90), "u", hosts, found, NOW_S, courses)
        one = Look(1.0, info(1), ["c" * 90], "c" * 90, ["m"], shown, {"full": n})
        lines = frame(model(one), width, height)
        assert len(lines) == height
        assert max(len(plain(line)) for line in lines) <= width


def test_a_frame_says_what_arrives_what_is_held_and_who_is_ill() -> None:
    shown = screen(model(look(0), look(1)))
    assert "mstore  ready  /srv/m" in shown
    assert re.search(r"^lines +5 k/s  ", shown, re.MULTILINE)
    assert "lag         1 block  fsync 2.5 ms" in shown
    assert re.search(r"samples +3 GiB of 8 GiB", shown)
    assert re.search(r"rings +32 MiB of 32 MiB", shown)
    assert re.search(r"snapshot +10 min old", shown)
    assert "1 ingest   2 connections" in shown
    assert "4 hosts:  2 full  1 partial  1 failed" in shown
    assert "f0002  f0001 (mem_bw, 1 more)" in shown


def test_few_hosts_have_their_courses_the_busiest_first() -> None:
    lines = screen(model(look(0, 4))).splitlines()
    start = next(i for i, line in enumerate(lines) if "cpu_load [procs] of fritz, 30 min" in line)
    assert [line.split()[:2] for line in lines[start + 1 : start + 5]] == [
        ["f0004", "3"], ["f0003", "2"], ["f0002", "1"], ["f0001", "0"],
    ]  # fmt: skip
    assert lines[start + 1].endswith("█")


def test_many_hosts_have_a_cell_each_or_the_largest_of_several() -> None:
    made = model(look(0, 1000))
    assert "a host each" in screen(made, 200, 49)
    small = screen(made)
    assert "largest of" in small
    assert "f1000       999" in small  # the busiest stands first


def test_hosts_without_a_fresh_sample_are_dots() -> None:
    one = look(0, 1000)
    one.shown.values[:] = np.nan
    one.shown.values[7] = 3.0
    shown = screen(model(one), 200, 49)
    assert shown.count("·") == 999 + 1  # and the scale's
    assert ", 999 without" in shown


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (HostValues("clock", why="clock has no aggregation"), "clock has no aggregation"),
        (HostValues("clock"), "no host has sent it"),
        (
            HostValues("clock", "", ["a"], np.array([np.nan]), NOW_S - 90),
            "no fresh sample; the newest is 1 min 30 s old",
        ),
    ],
)
def test_a_metric_without_values_says_why(shown: HostValues, told: str) -> None:
    assert told in screen(model(Look(0.0, info(), ["fritz"], "fritz", ["clock"], shown, {"full": 1})))


@pytest.mark.parametrize("flag", ["full", "degraded", "unprotected"])
def test_what_must_not_be_overlooked_stands_at_the_top(flag: str) -> None:
    lines = frame(model(look(0, **{flag: True})), 80, 23)
    assert flag.upper() in plain(lines[1])
    assert lines[1][0][1] == "bad"


def test_a_terminal_that_is_too_small_says_so() -> None:
    assert "needs" in screen(model(look(0)), WIDTH_MIN - 1, 50)
    assert "needs" in screen(model(look(0)), 80, HEIGHT_MIN - 1)


def test_before_the_first_look_the_frame_says_what_it_waits_for() -> None:
    made = Model()
    assert "looking at the store" in screen(made)
    made.failed("no store answers", 0.0)
    assert "no store answers" in screen(made)


# --- looks


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    made = filled(store_name() + "-top")
    yield made
    made.close()


class Asked:
    """A reader of the store with figures of its own, as a client would answer."""

    def __init__(self, store: Store) -> None:
        self._reader = reader(store)
        self.n = 0

    def info(self, **options: Any) -> dict[str, Any]:
        self.n += 1
        return info(self.n)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def test_a_look_asks_for_everything_that_is_shown(store: Store) -> None:
    asked: Any = Asked(store)
    found = take(asked, Choice())
    assert (found.clusters, found.cluster) == (["tiny"], "tiny")
    assert found.shown.metric == "cpu_load"
    assert list(found.shown.hosts) == ["g1", "n1", "n2"]
    assert np.isfinite(found.shown.values).all()
    assert found.shown.newest_s == T0 + 60 * (N - 1)
    assert len(found.shown.courses["n1"]) > 0
    assert found.n_by_state == {"full": 3, "partial": 0, "failed": 0}
    assert take(asked, Choice("tiny", "clock")).shown.why  # it is not aggregated


# --- the command and its terminal


@pytest.fixture
def client(store: Store, monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked(store)
    monkeypatch.setattr(common, "open_client", lambda args, **options: contextlib.nullcontext(asked))
    monkeypatch.setattr(top, "LOOK_S", 0.01)
    return asked


def test_once_prints_one_frame_without_textual(
    client: Asked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "textual", None)
    assert cli.main(["top", "--once", "--metric", "flops", "--utc"]) == 0
    out = capsys.readouterr().out
    assert "flops [GF/s] of tiny" in out
    assert "\x1b" not in out


def test_once_is_plain_letters_where_there_is_no_unicode(
    client: Asked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "unicode_ok", lambda stream=None: False)
    assert cli.main(["top", "--once"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert "-- traffic -" in out


def test_without_a_terminal_the_command_points_to_once(
    client: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["top"]) == 1
    assert capsys.readouterr().err == "mstore: mstore top needs a terminal; --once prints one frame\n"


def test_without_textual_the_command_says_what_to_install(
    client: Asked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.setattr(top.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(top.sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main(["top"]) == 1
    error = capsys.readouterr().err
    assert "mstore[top]" in error
    assert "--once goes without" in error


def test_without_a_store_the_command_ends_with_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top, "ASK_S_MAX", 0.2)
    assert cli.main(["top", "--once", "--dir", str(tmp_path)]) == 1
    assert "`mstore serve` starts one" in capsys.readouterr().err


def pilot(
    made: Model, answer: Callable[[Choice], Look], keys: list[str], size: tuple[int, int] = (80, 24)
) -> str:
    """Press keys in a terminal that is none; the screen at the end."""
    pytest.importorskip("textual")
    from mstore.cli.top_app import TopApp

    async def play() -> str:
        app = TopApp(made, answer, 3600.0, utc=True)
        async with app.run_test(size=size) as hands:
            await app.workers.wait_for_complete()
            for key in keys:
                await hands.press(key)
                await app.workers.wait_for_complete()
            await hands.pause()
            return "\n".join("".join(part.text for part in app.screen._compositor.render_strips()[y])
                             for y in range(size[1]))  # fmt: skip

    return asyncio.run(play())


def test_keys_choose_what_is_asked_next() -> None:
    asked: list[Choice] = []

    def answer(choice: Choice) -> Look:
        asked.append(choice)
        return look(len(asked))

    shown = pilot(Model(), answer, ["m", "c", "M"])
    assert [(one.cluster, one.metric) for one in asked] == [
        ("", ""), ("", "mem_bw"), ("tiny", "mem_bw"), ("tiny", "cpu_load"),
    ]  # fmt: skip
    assert "mstore  ready  /srv/m" in shown
    assert "quit" in shown


def test_a_pause_is_shown_and_a_store_that_is_gone_is_said() -> None:
    def answer(choice: Choice) -> Look:
        raise Unavailable("the store is starting: 40%")

    made = model(look(0))
    shown = pilot(made, answer, ["p"])
    assert made.paused
    assert "ready  paused" in shown
    assert "the store is starting: 40%" in shown
    assert "trying again" in shown


def test_an_optional_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from mstore.conversions import library

    monkeypatch.setitem(sys.modules, "textual", None)
    with pytest.raises(MissingLibrary, match=r"pip install textual, or 'mstore\[top\]'"):
        library("textual")

"""SIGKILL of every kind of process, at random moments and at named points, while acknowledged writers go on.

tests/torture/kills.py says how; `scripts/torture kills` goes on for ten thousand. MSTORE_SEED repeats who is killed
where, though not the moment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stores import Server, until
from tests.torture.kill_plans import Plan
from tests.torture.kill_points import AT_A_STOP, all_points
from tests.torture.kill_setups import SETUPS
from tests.torture.kill_writers import HOSTS, OTHER, STEP_S, Writer, first_s
from tests.torture.kills import Run

Serve = Callable[..., Server]

KILLS = 100
"""Of each kind of store."""
HIT = re.compile(r'faults\.hit\("([^"]+)"\)')


@pytest.mark.timeout(900)
@pytest.mark.parametrize("chores", [False, True], ids=["plain", "with retention, cap and orders"])
def test_no_acknowledged_sample_is_lost_whatever_is_killed_and_when(
    short_dir: Path, seed: int, chores: bool
) -> None:
    """Two ingest workers, as in three of four stores of a long run; with an archive, or without one, by the seed."""
    plain, expiring, archiving = SETUPS[1:]
    setup = (expiring, archiving)[seed % 2] if chores else plain
    run = Run(short_dir, seed, setup=setup)
    try:
        run.run(KILLS)
    finally:
        run.clean_up()
        print(run.told())
        print(run.server.log_text()[-4000:])
    tally = run.tally
    assert tally.killed.total() >= KILLS
    assert tally.missed.total() < KILLS // 4, "most orders are carried out"
    at_points = {name for name in tally.killed if " " in name}
    assert len(at_points) > 8, at_points
    assert tally.n_compared >= 2 * tally.n_acknowledged
    assert (tally.n_lost, tally.n_orphans, tally.n_segments_left) == (0, 0, 0)


@pytest.mark.parametrize(
    ("process", "points"),
    [
        ("persister", ["free.written", "protect.written", "persister.closing"]),
        ("archive", ["archive.written", "archive.published", "archive.committed", "archive.day_unnamed"]),
    ],
    ids=["persister", "archive"],
)
@pytest.mark.timeout(300)
def test_a_death_in_the_middle_of_an_order_loses_nothing(
    short_dir: Path, seed: int, process: str, points: list[str]
) -> None:
    """Points that are on nobody's way but that of an order or a stop, each of them reached here in every run."""
    run = Run(short_dir, seed, setup=SETUPS[-1])
    try:
        run.start()
        for writer in run.writers:
            while writer.acknowledged < 40:
                assert writer.send(writer.acknowledged)
                writer.acknowledged += 1
            writer.hang_up()
        with run.server.client(timeout=60) as client:
            client.archive(delete=True)
        for point in points:
            die_at(run, process, point)
        run.check()
        run.server.kill()
        run.bury()
        run.start()
        run.check()
    finally:
        run.clean_up()
        print(run.server.log_text()[-4000:])
    assert run.tally.n_compared == 2 * 40 * HOSTS * len(run.writers)
    assert (run.tally.n_lost, run.tally.n_gone) == (0, 0)


def die_at(run: Run, process: str, point: str) -> None:
    """Order a death, and what leads to it; the store is ready again then."""
    hit = run.orders / f"{process}.hit"
    before = run.server.worker_pid("persister")
    Plan(run, process).order(point, 1)
    if point in AT_A_STOP:
        assert run.server.process is not None
        run.server.process.terminate()
        run.bury()
        run.start()
        assert hit.exists(), point
        return

    def is_hit() -> bool:
        run.prod(process, point)
        return hit.exists()

    until(is_hit, point, 60)
    if process == "persister":
        until(lambda: run.server.worker_pid("persister") not in (0, before), "the next persister", 60)


@pytest.mark.parametrize("churns", [False, True], ids=["one series a host", "new series"])
def test_the_comparison_names_every_sample_that_is_not_there(
    short_dir: Path, serve: Serve, churns: bool
) -> None:
    server = serve(f'default_step = {STEP_S}\nretention = "0"\n')
    writer = Writer(server.directory, "w", first_s(), "durable", churns=churns)
    for tick in (0, 1, 2, 4, 8):  # 3, 5, 6 and 7 are lost; new series begin with 0, 4 and 8
        assert writer.send(tick)
    with server.client() as client:
        compared = writer.compare(client, range(HOSTS), 0, 9)
        gone = writer.compare(client, range(1), 12, 13)
        freed = writer.compare(client, range(HOSTS), 0, 9, writer.time_s(6))
        assert writer.send(1, OTHER)
        stale = writer.compare(client, range(HOSTS), 0, 2, writer.time_s(6))
    assert compared.n == 9 * HOSTS
    assert len(compared.lost) == 4 * HOSTS
    assert (gone.n, len(gone.lost)) == (1, 1)
    assert (freed.n_gone, len(freed.lost)) == (2 * HOSTS, 2 * HOSTS), "3 and 5 may be gone"
    assert (stale.n_gone, len(stale.lost)) == (0, HOSTS), "another value is wrong whatever may be gone"


def points_in_the_code() -> set[str]:
    root = Path(__file__).parents[2] / "mstore"
    code = "".join(path.read_text() for path in root.rglob("*.py") if path.name != "faults.py")
    assert code.count("faults.hit(") == len(HIT.findall(code)), "every point is a literal"
    return set(HIT.findall(code))


def test_points_of_the_code_and_of_the_plans_are_the_same() -> None:
    """A plan's point that nobody comes to would be a kill that never happens; one without a plan is never tried."""
    assert points_in_the_code() == set(all_points())

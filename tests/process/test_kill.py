"""SIGKILL of every kind of process, at random moments and at named points, while acknowledged writers go on.

tests/torture/kills.py says how; `scripts/torture kills` goes on for ten thousand. MSTORE_SEED repeats who is killed
where, though not the moment.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stores import Server
from tests.torture.kill_writers import HOSTS, STEP_S, Writer, first_s
from tests.torture.kills import POINTS, Run

Serve = Callable[..., Server]

KILLS = 200


@pytest.mark.timeout(900)
def test_no_acknowledged_sample_is_lost_whatever_is_killed_and_when(short_dir: Path, seed: int) -> None:
    run = Run(short_dir, seed)
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
    assert len(at_points) > 10, at_points
    assert tally.n_compared >= 2 * tally.n_acknowledged
    assert (tally.n_lost, tally.n_orphans, tally.n_segments_left) == (0, 0, 0)


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
    assert compared.n == 9 * HOSTS
    assert len(compared.lost) == 4 * HOSTS
    assert (gone.n, len(gone.lost)) == (1, 1)


def test_every_point_that_is_named_stands_in_the_code() -> None:
    """A point that nobody comes to would be a kill that never happens."""
    root = Path(__file__).parents[2] / "mstore"
    code = "".join(path.read_text() for path in root.rglob("*.py"))
    for points in POINTS.values():
        for point in points:
            assert f'faults.hit("{point}")' in code, point

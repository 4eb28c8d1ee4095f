"""SIGKILL of every kind of process, at random moments and at named points, while acknowledged writers go on.

tests/torture/kills.py says how; `scripts/torture kills` goes on for ten thousand. MSTORE_SEED repeats who is killed
where, though not the moment.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.kills import POINTS, Run

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
    assert run.killed.total() >= KILLS
    assert run.missed.total() < KILLS // 4, "most orders are carried out"
    at_points = {name for name in run.killed if " " in name}
    assert len(at_points) > 10, at_points


def test_every_point_that_is_named_stands_in_the_code() -> None:
    """A point that nobody comes to would be a kill that never happens."""
    root = Path(__file__).parents[2] / "mstore"
    code = "".join(path.read_text() for path in root.rglob("*.py"))
    for points in POINTS.values():
        for point in points:
            assert f'faults.hit("{point}")' in code, point

"""What is asked of archive and memory together is answered as memory alone answered before anything left it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mstore.archive.overlay import build
from mstore.archive.reading import ArchiveFiles
from tests import archive_rig
from tests.query_rig import T0, Store


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-{os.getpid()}-{archive_rig.name()}")
    yield made
    made.close()


@pytest.mark.parametrize("round", range(4))
def test_answers_over_archive_and_memory_are_those_of_memory_before(
    store: Store, tmp_path: Path, seed: int, round: int
) -> None:
    rng = np.random.default_rng([seed, round])
    filled = archive_rig.fill(store, tmp_path, rng)
    requests = archive_rig.questions(rng, 60)
    before = [archive_rig.plain(archive_rig.asked(filled.reader(), one)) for one in requests]
    reached = T0 + archive_rig.SPAN_S // 2
    for _ in range(int(rng.integers(1, 4))):
        reached += int(rng.integers(0, archive_rig.SPAN_S))
        limits = np.array([reached + int(rng.integers(0, 7200)) for _ in range(filled.n_metrics)])
        assert not filled.archive(limits).failed
        filled.free(reached - int(rng.integers(0, 40_000)))
    alone = [archive_rig.plain(archive_rig.asked(filled.reader(), one)) for one in requests]
    assert alone != before, "nothing has left memory: the test shows nothing"
    archive = ArchiveFiles(tmp_path)
    for request, expected in zip(requests, before, strict=True):
        overlay = build(archive, filled.memory, archive_rig.scopes_of([request]))
        assert not overlay.problems
        assert archive_rig.plain(archive_rig.asked(overlay.reader, request)) == expected, request
    together = build(archive, filled.memory, archive_rig.scopes_of(requests))
    after = [archive_rig.plain(archive_rig.asked(together.reader, one)) for one in requests]
    assert after == before

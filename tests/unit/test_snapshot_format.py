"""Snapshots of every released format are read: tests/data/format-N/snapshots, small, made by this version of N.

`python -m tests.unit.test_snapshot_format` makes those of the present format anew, for a release that changes it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mstore.persistence.files import Files, snapshot_dir
from mstore.persistence.restore import load_snapshots
from mstore.persistence.snapshot import check_snapshot, list_snapshots, write_snapshot
from mstore.persistence.snapshot_files import VERSION
from mstore.shm.directory import DirectoryReader
from tests.snapshot_rig import small_store
from tests.targets import Collected
from tests.unit.test_recovery_store import START_S, Machine

DATA = Path(__file__).parents[1] / "data"
LOG_SEQ = 1000
NAMES = {"cpu_user": "fritz", "mem_used": "fritz", "flops_any": "alex"}


def definitions(directory: Path) -> list[bytes]:
    """Of three series in two clusters."""
    machine = Machine(directory)
    for metric, cluster in NAMES.items():
        machine.intern([metric], START_S, cluster)
    assert machine.wal.close()
    return list(DirectoryReader(machine.store.directory.segment).dump_definitions())


def make(directory: Path) -> None:
    """Chunks of all kinds and types from a store made by hand, definitions from a real one."""
    with tempfile.TemporaryDirectory() as name:
        records = definitions(Path(name))
    store, samples = small_store()[0].segments()
    write_snapshot(
        Files(), directory, LOG_SEQ, records, store, samples,
        written=lambda: LOG_SEQ, durable=lambda: LOG_SEQ, pause_s=0,
    )  # fmt: skip


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_a_snapshot_of_every_format_is_read(tmp_path: Path, version: int) -> None:
    shutil.copytree(DATA / f"format-{version}" / "snapshots", snapshot_dir(tmp_path))
    ((log_seq, path),) = list_snapshots(Files(), snapshot_dir(tmp_path))
    assert log_seq == LOG_SEQ
    info = check_snapshot(Files(), path, log_seq)
    assert (info.n_clusters, info.n_series, info.n_chunks) == (2, 6, 6)
    target = Collected()
    loaded = load_snapshots(Files(), tmp_path, target)
    assert loaded.refused == []
    assert target.chunks == small_store()[1]
    machine = Machine(tmp_path / "another")
    for records in target.definitions:
        machine.store.directory.apply_definition(records)
    machine.store.directory.publish()
    directory = DirectoryReader(machine.store.directory.segment)
    found = {}
    for row in directory.series_table():
        path_of = directory.path(int(row["level"]), directory.metric(int(row["metric"])).name)
        found[path_of.metric] = path_of.cluster
    assert found == NAMES
    assert np.all(directory.series_table()["generation"] == 1)
    assert machine.wal.close()


if __name__ == "__main__":
    target = DATA / f"format-{VERSION}"
    shutil.rmtree(target / "snapshots", ignore_errors=True)
    make(target)

"""Snapshots of every released format are read: tests/data/format-N/snapshots, small, made by this version of N.

`python -m tests.unit.test_snapshot_format` makes those of the present format anew, for a release that changes it.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mstore.errors import CorruptRecord
from mstore.persistence.dump.items import Choice, Shown
from mstore.persistence.dump.names import Names
from mstore.persistence.dump.snapshots import snapshot_items
from mstore.persistence.files import Files, generation_of, snapshot_dir
from mstore.persistence.restore import load_snapshots
from mstore.persistence.snapshot import check_snapshot, list_snapshots, write_snapshot
from mstore.persistence.snapshot_files import ROLE_CHUNKS, VERSION, Expected, read_blocks, read_end
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


def test_blocks_of_version_1_are_salvaged_dumped_and_known_by_their_end(tmp_path: Path) -> None:
    """They do not say their cluster."""
    folder = snapshot_dir(tmp_path)
    shutil.copytree(DATA / "format-1" / "snapshots", folder)
    chunks = min(folder.glob("*.00000001.chunks"))
    for suffix in ("chunks", "definitions"):
        for path in folder.glob(f"*.{suffix}"):
            assert not any(item.wrong for item in snapshot_items(path, Files(), Shown(Choice()), Names()))
    _, generation_id = generation_of(chunks.name) or (0, 0)
    expected = Expected(LOG_SEQ, ROLE_CHUNKS, 1, generation_id)
    assert read_end(Files(), chunks, expected)[0].n_chunks == 5
    with pytest.raises(CorruptRecord, match="does not hold chunks of cluster 2"):
        list(read_blocks(Files(), chunks, replace(expected, cluster=2)))
    chunks.write_bytes(chunks.read_bytes()[:-8])
    target = Collected()
    assert [one.n_lost for one in load_snapshots(Files(), tmp_path, target).refused] == [0]
    assert target.chunks == small_store()[1]


if __name__ == "__main__":
    target = DATA / f"format-{VERSION}"
    shutil.rmtree(target / "snapshots", ignore_errors=True)
    make(target)

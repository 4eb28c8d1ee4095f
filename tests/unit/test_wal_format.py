"""Logs of released formats are read for good: tests/data/format-N/wal holds what a version that wrote N left.

    0000000000000001.wal   blocks 1 to 5: definitions of two series, samples
    0000000000000006.wal   block 6: samples; half of block 7, as a power cut left it

Run this file as a program to write such a log anew, for a new format only.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from mstore.kernels._segment import Segment
from mstore.persistence.blocks import BLOCK_HEADER_BYTES, CATALOG, SEGMENT_HEADER_BYTES, VERSION
from mstore.persistence.files import Files, wal_dir
from mstore.persistence.replay import LogReader, LogReport, finish_replay
from mstore.persistence.wal import Wal
from tests.torture.machine import STEP_S, Machine, scatter, values_of

DATA = Path(__file__).parents[1] / "data"
START_S = 1_700_000_000
NAMES = ["m0", "m1"]
SEGMENT_BYTES = SEGMENT_HEADER_BYTES + 7 * BLOCK_HEADER_BYTES + 500


def value(tick: int, series: int) -> float:
    return tick + series / 4


def write(directory: Path) -> None:
    """The log that is kept."""
    files, machine = Files(), Machine()
    folder = wal_dir(directory)
    files.mkdir(folder)
    dir_fd = files.open_dir(folder)
    words = [Segment(bytearray(8192), True) for _ in range(2)]
    committer = files.committer(words[0], words[1:], [-1], -1, 0, dir_fd)
    wal = Wal(files, folder, 1, committer, dir_fd=dir_fd, segment_bytes=SEGMENT_BYTES, spares=0)
    refs, definitions = machine.intern(NAMES, START_S)
    wal.append(CATALOG, 0, 0, definitions)
    for tick in range(5):
        wal.append(0, 0, 0, scatter(refs, [value(tick, 0), value(tick, 1)], START_S + tick * STEP_S))
        assert wal.flush(10)
    wal._committer.stop()
    newest = max(folder.glob("*.wal"))
    text = bytearray(newest.read_bytes())
    last = len(text.rstrip(b"\0"))
    text[last : last + 40] = text[SEGMENT_HEADER_BYTES : SEGMENT_HEADER_BYTES + 40]
    newest.write_bytes(text)


def read(directory: Path, machine: Machine) -> LogReport:
    return LogReader(Files(), directory, 0).replay(machine.store.apply_block)


def test_logs_of_every_released_format_are_read(tmp_path: Path) -> None:
    formats = sorted(int(path.parent.name.removeprefix("format-")) for path in DATA.glob("format-*/wal"))
    assert formats == list(range(1, VERSION + 1)), "a format that was released has its files kept"
    for number in formats:
        directory = tmp_path / str(number)
        shutil.copytree(DATA / f"format-{number}" / "wal", wal_dir(directory))
        machine = Machine()
        report = read(directory, machine)
        machine.store.directory.publish()
        assert (report.n_blocks, report.last_seq, report.damage, report.hurt) == (6, 6, [], [])
        assert report.torn is not None
        names = [
            machine.reader().path(series.level).host
            for slot in range(2)
            if (series := machine.reader().series(slot))
        ]
        assert names == ["h", "h"]
        expected = {(slot, 1, tick): value(tick, slot) for slot in range(2) for tick in range(5)}
        assert values_of(machine.entries()) == expected
        assert finish_replay(Files(), directory, report) == 7
        again = Machine()
        assert read(directory, again).torn is None
        assert values_of(again.entries()) == expected


if __name__ == "__main__":
    write(Path(sys.argv[1]))

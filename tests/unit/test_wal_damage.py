"""Every byte of a small log flipped, every truncation tried: detected, never a wrong payload handed on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mstore.errors import CorruptRecord
from mstore.kernels._segment import Segment
from mstore.persistence.blocks import CATALOG, SEGMENT_HEADER_BYTES
from mstore.persistence.files import Files, quarantine_dir, wal_dir, wal_name
from mstore.persistence.replay import LogReader, LogReport, finish_replay
from mstore.persistence.wal import Wal

SEGMENT_BYTES = SEGMENT_HEADER_BYTES + 512


class MemoryFiles(Files):
    """Reads a log from a dict, so that ten thousand images cost seconds; quarantined copies are kept, too."""

    def __init__(self, folder: Path, contents: dict[str, bytes]) -> None:
        self.folder = folder
        self.contents = contents
        self.quarantined: dict[str, bytes] = {}

    def list(self, path: Path) -> list[str]:
        return sorted(self.contents) if path == self.folder else []

    def read(self, path: Path) -> bytes:
        return self.contents[path.name]

    def mkdir(self, path: Path) -> None:
        pass

    def replace(self, path: Path, content: bytes) -> None:
        self.quarantined[path.name] = content


def payload(seq: int) -> bytes:
    return bytes((seq * 31 + i) % 255 + 1 for i in range(40))


def open_wal(directory: Path, first_seq: int = 1, *, background: bool = True) -> Wal:
    files = Files()
    files.mkdir(wal_dir(directory))
    dir_fd = files.open_dir(wal_dir(directory))
    committer = files.committer(Segment(bytearray(8192), True), [], [], -1, first_seq - 1, dir_fd)
    return Wal(
        files,
        wal_dir(directory),
        first_seq,
        committer,
        dir_fd=dir_fd,
        segment_bytes=SEGMENT_BYTES,
        spares=0,
        background=background,
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], int]:
    """A cleanly closed log of two segments: (DIR, contents by name, number of payloads)."""
    directory = tmp_path_factory.mktemp("log")
    wal = open_wal(directory)
    n_payloads = 7
    for seq in range(1, n_payloads + 1):
        wal.append(CATALOG, 0, 0, payload(seq))
        assert wal.flush(5)
    assert wal.close()
    contents = {name: Files().read(wal_dir(directory) / name) for name in os.listdir(wal_dir(directory))}
    assert len(contents) == 2
    return directory, contents, n_payloads


def replay(directory: Path, contents: dict[str, bytes]) -> tuple[list[bytes], LogReport, MemoryFiles]:
    files = MemoryFiles(wal_dir(directory), contents)
    payloads: list[bytes] = []
    report = LogReader(files, directory, 0).replay(lambda found: payloads.append(bytes(found)))
    return payloads, report, files


def lost(report: LogReport) -> set[int]:
    return {seq for damage in report.damage for seq in range(damage.first_seq, damage.last_seq + 1)}


def used(name: str, contents: dict[str, bytes]) -> int:
    return len(contents[name].rstrip(b"\0"))


def check_image(
    directory: Path, contents: dict[str, bytes], n_payloads: int, detected: bool, what: str
) -> None:
    payloads, report, _ = replay(directory, contents)
    cut = set(range(report.torn.first_seq, n_payloads + 1)) if report.torn else set()
    expected = [payload(seq) for seq in range(1, n_payloads + 1) if seq not in lost(report) | cut]
    assert payloads == expected, what
    if detected:
        assert report.damage or report.torn or report.hurt, what
    # Every payload was named durable by a later block, so losing one is damage, never a torn end.
    assert not cut, what


def test_an_intact_log_reads_back_without_a_remark(log: tuple[Path, dict[str, bytes], int]) -> None:
    directory, contents, n_payloads = log
    payloads, report, _ = replay(directory, contents)
    assert payloads == [payload(seq) for seq in range(1, n_payloads + 1)]
    assert (report.damage, report.torn, report.hurt) == ([], None, [])


@pytest.mark.parametrize("segment", [0, 1])
def test_every_flipped_byte_is_detected_and_no_wrong_payload_is_handed_on(
    log: tuple[Path, dict[str, bytes], int], segment: int
) -> None:
    directory, contents, n_payloads = log
    name = sorted(contents)[segment]
    end = used(name, contents)
    for offset in range(len(contents[name])):
        image = bytearray(contents[name])
        image[offset] ^= 0xFF if offset % 2 else 0x01
        check_image(
            directory, {**contents, name: bytes(image)}, n_payloads, offset < end, f"{name} byte {offset}"
        )


@pytest.mark.parametrize("segment", [0, 1])
def test_every_truncation_is_detected_and_no_wrong_payload_is_handed_on(
    log: tuple[Path, dict[str, bytes], int], segment: int
) -> None:
    directory, contents, n_payloads = log
    name = sorted(contents)[segment]
    for length in range(len(contents[name])):
        images = {**contents, name: contents[name][:length]}
        payloads, report, _ = replay(directory, images)
        assert report.hurt or report.damage, length
        assert payloads == [payload(seq) for seq in range(1, n_payloads + 1)][: len(payloads)] or lost(report)
        assert all(found in [payload(seq) for seq in range(1, n_payloads + 1)] for found in payloads)


def test_a_segment_that_is_gone_is_damage_with_its_reach(log: tuple[Path, dict[str, bytes], int]) -> None:
    directory, contents, _ = log
    first, second = sorted(contents)
    payloads, report, _ = replay(directory, {second: contents[second]})
    resumes = int(second[:16], 16)
    assert lost(report) == set(range(1, resumes))
    assert payloads[0] == payload(resumes)
    assert first == wal_name(1)


def test_damage_in_the_middle_is_quarantined_and_the_rest_is_read(
    log: tuple[Path, dict[str, bytes], int],
) -> None:
    directory, contents, n_payloads = log
    name = sorted(contents)[0]
    image = bytearray(contents[name])
    place = SEGMENT_HEADER_BYTES + 104 + 70
    image[place] ^= 0x40
    payloads, report, files = replay(directory, {**contents, name: bytes(image)})
    assert payloads == [payload(seq) for seq in range(1, n_payloads + 1) if seq != 2]
    assert [(found.first_seq, found.last_seq) for found in report.damage] == [(2, 2)]
    assert "checksum" in str(report.damage[0])
    copy = files.quarantined[f"{name}-{SEGMENT_HEADER_BYTES + 104}"]
    assert copy == bytes(image[SEGMENT_HEADER_BYTES + 104 : SEGMENT_HEADER_BYTES + 208])


@pytest.mark.parametrize("segment", [0, 1])
def test_damage_before_the_end_of_a_clean_log_makes_no_torn_end_of_it(
    log: tuple[Path, dict[str, bytes], int], segment: int
) -> None:
    directory, contents, _ = log
    name = sorted(contents)[segment]
    image = bytearray(contents[name])
    image[SEGMENT_HEADER_BYTES + 70] ^= 0x40
    _, report, _ = replay(directory, {**contents, name: bytes(image)})
    assert len(report.damage) == 1
    assert report.torn is None


def test_strict_reading_refuses_damage_before_handing_on_what_follows(
    log: tuple[Path, dict[str, bytes], int], tmp_path: Path
) -> None:
    directory, contents, _ = log
    name = sorted(contents)[0]
    shutil.copytree(directory, tmp_path / "copy")
    path = wal_dir(tmp_path / "copy") / name
    image = bytearray(contents[name])
    image[SEGMENT_HEADER_BYTES + 104 + 70] ^= 0x40
    path.write_bytes(image)
    payloads: list[bytes] = []
    with pytest.raises(CorruptRecord, match="block 2 lost") as caught:
        LogReader(Files(), tmp_path / "copy", 0, strict=True).replay(
            lambda found: payloads.append(bytes(found))
        )
    assert payloads == [payload(1)]
    assert caught.value.details["path"] == str(path)
    assert not quarantine_dir(tmp_path / "copy").exists()


def torn_log(directory: Path, n_blocks: int) -> Path:
    """A log without a clean stop: written, never synced, so no block names another as durable."""
    wal = open_wal(directory, background=False)
    for seq in range(1, n_blocks + 1):
        wal.append(CATALOG, 0, 0, payload(seq))
    wal._segments.close()
    os.close(wal._dir_fd)
    return wal_dir(directory) / wal_name(1)


def test_a_torn_block_at_the_end_of_the_log_is_cut_and_reported(tmp_path: Path) -> None:
    path = torn_log(tmp_path, 3)
    image = bytearray(path.read_bytes())
    image[SEGMENT_HEADER_BYTES + 2 * 104 + 90] ^= 1
    path.write_bytes(image)
    payloads: list[bytes] = []
    report = LogReader(Files(), tmp_path, 0, strict=True).replay(lambda found: payloads.append(bytes(found)))
    assert payloads == [payload(1), payload(2)]
    assert report.torn is not None
    assert (report.torn.first_seq, report.torn.offset) == (3, SEGMENT_HEADER_BYTES + 2 * 104)
    assert report.torn.n_bytes == 104
    assert report.damage == []
    assert finish_replay(Files(), tmp_path, report) == 3


def test_blocks_behind_a_torn_one_are_cut_with_it_and_never_come_back(tmp_path: Path) -> None:
    path = torn_log(tmp_path, 7)
    image = bytearray(path.read_bytes())
    image[SEGMENT_HEADER_BYTES + 104] ^= 1
    path.write_bytes(image)
    found: list[bytes] = []
    report = LogReader(Files(), tmp_path, 0).replay(lambda payload: found.append(bytes(payload)))
    assert found == [payload(1)]
    assert report.n_blocks_cut == 5
    next_seq = finish_replay(Files(), tmp_path, report)
    assert os.listdir(wal_dir(tmp_path)) == [wal_name(1)], "the second segment began behind the cut"
    assert path.stat().st_size == SEGMENT_HEADER_BYTES + 104, "block 1 was written again, alone"
    wal = open_wal(tmp_path, next_seq)
    wal.append(CATALOG, 0, 0, payload(99))
    assert wal.close()
    found.clear()
    report = LogReader(Files(), tmp_path, 0, strict=True).replay(lambda payload: found.append(bytes(payload)))
    assert found == [payload(1), payload(99)]
    assert report.torn is None

"""One segment: its header, its memory, who may attach and what goes away when."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import uuid
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

import numpy as np
import pytest

from mstore.errors import LayoutMismatch, NotPermitted, StorageError, StoreFull, Unavailable
from mstore.shm import layout, segment

PAGE = layout.PAGE_BYTES
KIND = layout.SEG_SAMPLES
INSTANCE = 0x1234_5678_9ABC


@pytest.fixture
def name() -> Iterator[str]:
    """A name of its own for every test, unlinked at the end whatever happened."""
    value = f"mstore-test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    yield value
    segment.unlink(value)


def make(name: str, reserved_bytes: int = 4 * PAGE) -> segment.Mapping:
    mapping = segment.create(name, KIND, reserved_bytes, INSTANCE)
    mapping.mark_ready()
    return mapping


def allocated_bytes(name: str) -> int:
    return os.stat(segment.SHM_DIR / name).st_blocks * 512


def test_the_pages_of_dev_shm_are_those_of_the_mount_that_is_seen(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    assert segment.huge_pages(mounts) == "never"
    first = "25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24683656k\n"
    mounts.write_text("24 1 8:1 / / rw shared:1 - ext4 /dev/vda rw,huge=no\n" + first)
    assert segment.huge_pages(mounts) == "never"
    second = "30 25 0:27 / /dev/shm rw shared:2 master:1 - tmpfs tmpfs rw,size=24683656k,huge=within_size,inode64\n"
    mounts.write_text(first + second)
    assert segment.huge_pages(mounts) == "within_size"
    without_source = "31 30 0:28 / /dev/shm rw - tmpfs  rw,huge=advise\n"
    mounts.write_text(first + second + without_source)
    assert segment.huge_pages(mounts) == "advise"


def test_what_the_creator_writes_an_attacher_reads(name: str) -> None:
    with make(name) as creator, segment.attach(name, KIND, INSTANCE) as reader:
        creator.buffer[2 * PAGE : 2 * PAGE + 5] = b"hello"
        assert bytes(reader.buffer[2 * PAGE : 2 * PAGE + 5]) == b"hello"
        assert len(reader.buffer) == reader.segment.length == 4 * PAGE


def test_a_segment_without_a_name_is_attached_by_its_descriptor(name: str) -> None:
    with make(name) as creator:
        creator.buffer[8192] = 7
        fds = [os.dup(creator.fd) for _ in range(2)]
        assert segment.is_there(name, creator.fd)
        segment.unlink(name)
        assert not segment.is_there(name, creator.fd)
        with pytest.raises(Unavailable):
            segment.attach(name, KIND, INSTANCE)
        with segment.attach(name, KIND, INSTANCE, fd=fds[0]) as reader:
            assert reader.buffer[8192] == 7
            assert reader.fd == -1, "one that only reads needs it no more"
        with segment.attach(name, KIND, INSTANCE, writable=True, fd=fds[1]) as writer:
            writer.buffer[8192] = 9
        assert creator.buffer[8192] == 9


def test_header_holds_what_makes_a_segment_valid(name: str) -> None:
    with make(name) as creator:
        header = np.frombuffer(bytes(creator.buffer[:PAGE]), layout.SEGMENT_HEADER)[0]
    assert int(header["magic"]) == layout.MAGIC
    assert (int(header["kind"]), int(header["layout_version"])) == (KIND, layout.LAYOUT_VERSION)
    assert int(header["fingerprint"]) == layout.FINGERPRINT
    assert int(header["instance"]) == INSTANCE
    assert header["boot_id"].tobytes() == segment.boot_id()
    assert int(header["reserved_bytes"]) == int(header["committed_bytes"]) == 4 * PAGE
    assert int(header["ready"]) == 1


def test_mode_lets_the_group_read_and_nobody_else(name: str) -> None:
    with segment.create(name, KIND, 2 * PAGE, INSTANCE, group=os.getgid()):
        stat = os.stat(segment.SHM_DIR / name)
    assert stat.st_mode & 0o777 == 0o640
    assert stat.st_gid == os.getgid()


def test_a_group_that_its_creator_is_not_in_is_no_reason_to_fail(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(fd: int, uid: int, gid: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", refused)
    with segment.create(name, KIND, PAGE, INSTANCE, group=0) as made:
        status = os.fstat(made.fd)
        assert (status.st_mode & 0o777, status.st_uid) == (0o640, os.geteuid())


def test_reader_cannot_write(name: str) -> None:
    with make(name), segment.attach(name, KIND, INSTANCE) as reader:
        assert reader.fd == -1
        assert not reader.segment.writable
        assert reader.buffer.readonly
        with pytest.raises(TypeError):
            reader.buffer[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            reader.mark_ready()
        with pytest.raises(ValueError, match="read-only"):
            reader.commit(1 << 30)


def test_writable_attacher_writes_and_can_commit(name: str) -> None:
    with segment.create(name, KIND, 64 * PAGE, INSTANCE, commit_bytes=2 * PAGE) as creator:
        creator.mark_ready()
        with segment.attach(name, KIND, INSTANCE, writable=True) as writer:
            writer.commit(10 * PAGE)
            writer.buffer[9 * PAGE] = 7
            assert creator.committed_bytes == writer.committed_bytes == 10 * PAGE
            assert creator.buffer[9 * PAGE] == 7
            assert allocated_bytes(name) == 10 * PAGE


def test_only_committed_bytes_cost_memory(name: str) -> None:
    with segment.create(name, KIND, 1024 * PAGE, INSTANCE, commit_bytes=2 * PAGE) as mapping:
        assert len(mapping.buffer) == 1024 * PAGE
        assert allocated_bytes(name) == 2 * PAGE
        mapping.commit(5 * PAGE)
        mapping.commit(3 * PAGE)
        assert mapping.committed_bytes == 5 * PAGE
        assert allocated_bytes(name) == 5 * PAGE


def test_committing_beyond_the_reserved_bytes_is_refused(name: str) -> None:
    with make(name) as mapping, pytest.raises(ValueError, match="cannot commit"):
        mapping.commit(5 * PAGE)


def test_full_shared_memory_at_creation_is_store_full_and_leaves_no_file(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    descriptors = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(StoreFull, match="no room in /dev/shm"):
        segment.create(name, KIND, 4 * PAGE, INSTANCE)
    assert segment.stale(name) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_more_than_all_of_shared_memory_is_store_full_and_never_a_bus_error(name: str) -> None:
    room = os.statvfs(segment.SHM_DIR)
    reserved = (room.f_blocks + 1024) * room.f_frsize
    with segment.create(name, KIND, reserved, INSTANCE, commit_bytes=PAGE) as mapping:
        mapping.mark_ready()
        with pytest.raises(StoreFull) as caught:
            mapping.commit(reserved)
        assert caught.value.details["wanted_bytes"] == reserved - PAGE
        assert mapping.committed_bytes == PAGE
        mapping.commit(2 * PAGE)
        mapping.buffer[2 * PAGE - 1] = 1
        assert mapping.committed_bytes == 2 * PAGE


def test_failure_of_any_other_kind_at_creation_is_a_storage_error_and_leaves_no_file(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refuse)
    with pytest.raises(StorageError, match="cannot create segment"):
        segment.create(name, KIND, 4 * PAGE, INSTANCE)
    assert segment.stale(name) == []


def test_existing_name_is_refused_and_its_segment_untouched(name: str) -> None:
    with make(name) as first:
        first.buffer[PAGE] = 5
        with pytest.raises(StorageError, match="exists"):
            segment.create(name, KIND, 4 * PAGE, INSTANCE)
        assert first.buffer[PAGE] == 5
        assert segment.stale(name) == [name]


@pytest.mark.parametrize("bad", ["", "a/b", "../x", ".hidden", "x" * 300, "a b", "a\n"])
def test_name_that_could_be_another_path_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="name of a segment"):
        segment.create(bad, KIND, PAGE, INSTANCE)
    with pytest.raises(ValueError, match="name of a segment"):
        segment.attach(bad, KIND, INSTANCE)


def test_segment_without_room_for_a_header_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="commit_bytes"):
        segment.create(name, KIND, PAGE - 1, INSTANCE)
    with pytest.raises(ValueError, match="commit_bytes"):
        segment.create(name, KIND, PAGE, INSTANCE, commit_bytes=2 * PAGE)
    assert segment.stale(name) == []


def test_attaching_before_ready_is_refused(name: str) -> None:
    with (
        segment.create(name, KIND, 2 * PAGE, INSTANCE),
        pytest.raises(LayoutMismatch, match="not ready"),
    ):
        segment.attach(name, KIND, INSTANCE)


def test_attaching_to_nothing_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="not running"):
        segment.attach("mstore-no-such-segment", KIND, INSTANCE)


def test_attaching_without_permission_is_not_permitted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with make(name):
        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(NotPermitted):
            segment.attach(name, KIND, INSTANCE)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("magic", 1),
        ("kind", layout.SEG_RING),
        ("layout_version", layout.LAYOUT_VERSION + 1),
        ("fingerprint", layout.FINGERPRINT ^ 1),
        ("instance", INSTANCE + 1),
        ("boot_id", None),
        ("reserved_bytes", 99),
    ],
)
def test_attach_says_which_field_of_the_header_differs(name: str, field: str, wrong: int | None) -> None:
    with make(name) as creator:
        fields = layout.SEGMENT_HEADER.fields
        assert fields is not None
        dtype, offset = fields[field][:2]
        value = bytes(dtype.itemsize) if wrong is None else wrong.to_bytes(dtype.itemsize, sys.byteorder)
        creator.buffer[offset : offset + dtype.itemsize] = value
        with pytest.raises(LayoutMismatch, match=field) as caught:
            segment.attach(name, KIND, INSTANCE)
        assert caught.value.details["field"] == field


def test_attach_accepts_any_instance_when_asked_to(name: str) -> None:
    with make(name), segment.attach(name, KIND, None) as reader:
        assert reader.name == name


def test_file_too_short_for_a_header_is_refused(name: str) -> None:
    (segment.SHM_DIR / name).write_bytes(b"short")
    with pytest.raises(LayoutMismatch, match="not a segment"):
        segment.attach(name, KIND, INSTANCE)


def test_closing_twice_is_harmless_and_frees_the_descriptor(name: str) -> None:
    mapping = make(name)
    fd = mapping.fd
    mapping.close()
    mapping.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert "closed" in repr(mapping)


def test_views_outlive_close(name: str) -> None:
    mapping = make(name)
    array = np.frombuffer(mapping.buffer, np.uint8)
    handle = mapping.segment
    mapping.close()
    segment.unlink(name)
    assert int(array[:8].view(np.uint64)[0]) == layout.MAGIC
    assert handle.length == 4 * PAGE
    with open("/proc/self/maps") as maps:
        assert name in maps.read(), "the mapping must live while somebody can look at it"


def test_mapping_goes_with_its_last_view(name: str) -> None:
    mapping = make(name)
    view = mapping.buffer[:8]
    mapping.close()
    assert bytes(view) == layout.MAGIC.to_bytes(8, sys.byteorder)
    del view, mapping
    with open("/proc/self/maps") as maps:
        assert name not in maps.read()


def test_unlinked_segment_lives_on_for_those_who_mapped_it(name: str) -> None:
    with make(name) as creator, segment.attach(name, KIND, INSTANCE) as reader:
        segment.unlink(name)
        segment.unlink(name)
        creator.buffer[PAGE] = 9
        assert reader.buffer[PAGE] == 9
        with pytest.raises(Unavailable):
            segment.attach(name, KIND, INSTANCE)


def test_stale_lists_only_names_with_the_prefix(name: str) -> None:
    with make(name + "-a"), make(name + "-b"):
        assert segment.stale(name) == [name + "-a", name + "-b"]
        segment.unlink(name + "-a")
        assert segment.stale(name) == [name + "-b"]
        segment.unlink(name + "-b")
    assert segment.stale(name) == []


def test_prefix_is_one_per_real_directory(tmp_path: Path) -> None:
    real = tmp_path / "store"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    prefix = segment.name_prefix(real)
    assert (
        prefix
        == segment.name_prefix(tmp_path / "link")
        == segment.name_prefix(tmp_path / "link" / ".." / "store")
    )
    assert prefix != segment.name_prefix(tmp_path)
    assert prefix.startswith("mstore-")
    assert len(prefix) == len("mstore-") + 12


def test_boot_id_is_sixteen_bytes_and_constant() -> None:
    assert len(segment.boot_id()) == 16
    assert segment.boot_id() == segment.boot_id() != bytes(16)


def test_creating_starts_no_resource_tracker(name: str) -> None:
    with make(name):
        tracker = vars(resource_tracker)["_resource_tracker"]
        assert vars(tracker)["_fd"] is None
        assert vars(shared_memory)["resource_tracker"] is resource_tracker


def test_symbolic_link_in_shared_memory_is_not_followed(name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(bytes(4 * PAGE))
    (segment.SHM_DIR / name).symlink_to(victim)
    with pytest.raises(StorageError, match="cannot open"):
        segment.attach(name, KIND, INSTANCE, writable=True)
    assert victim.read_bytes() == bytes(4 * PAGE)


def test_mapping_of_a_reader_is_protected_by_the_system(name: str) -> None:
    with make(name), segment.attach(name, KIND, INSTANCE), open("/proc/self/maps") as maps:
        modes = [line.split()[1] for line in maps if name in line]
    assert modes == ["rw-s", "r--s"] or modes == ["r--s", "rw-s"]
    assert mmap.PAGESIZE % PAGE == 0

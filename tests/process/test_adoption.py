"""Memory that survives its processes: used again when it is what the log says, refused with the reason when not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mstore
from mstore.cli import main
from mstore.errors import MstoreError, Unavailable
from mstore.shm import layout, segment
from tests.stores import Server, until

CONFIG = 'retention = "0"\ningest_workers = 1\nquery_workers = 1\n'
ADOPTED = "persister: memory adopted"
Serve = Callable[..., Server]


def write(server: Server, t: int, n_hosts: int = 40) -> None:
    text = "".join(f"cpu,cluster=c,hostname=h{i} value={(t + 7 * i) % 1000} {t}\n" for i in range(n_hosts))
    assert server.send_text(text.encode()) == f"written={n_hosts} rejected=0 ignored=0 durable=yes\n".encode()


def content(server: Server, now: int) -> list[str]:
    with server.client() as client:
        found = [client.query("c", f"h{i}", "cpu", now - 3600, now + 60) for i in (0, 17, 39)]
    return [str(series.values.tolist()) for series in found]


def poke(server: Server, role: str, offset: int, value: int, width: int = 8) -> None:
    """Store a word in a segment that nobody has mapped."""
    names = json.loads((server.directory / "run" / "instance.json").read_text())["segments"]
    with open(segment.SHM_DIR / names[role], "r+b") as file:
        file.seek(offset)
        file.write(value.to_bytes(width, "little"))


def peek(server: Server, role: str, offset: int, width: int = 8) -> int:
    names = json.loads((server.directory / "run" / "instance.json").read_text())["segments"]
    with open(segment.SHM_DIR / names[role], "rb") as file:
        file.seek(offset)
        return int.from_bytes(file.read(width), "little")


def segments_left(server: Server) -> list[str]:
    return segment.stale(segment.name_prefix(server.directory))


def test_a_restart_keeps_the_memory_and_whoever_is_attached_to_it(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    write(server, now - 600)
    before, instance = content(server, now), server.info()["instance"]
    with mstore.attach(server.directory) as attached:
        with server.client() as client:
            client.control("restart")
        assert ADOPTED in server.log_text()
        assert server.info()["instance"] == instance
        assert server.info()["last_recovery"]["adopted"]
        assert content(server, now) == before
        write(server, now - 540)
        values = attached.query("c", "h0", "cpu", now - 660, now).values
        assert np.count_nonzero(~np.isnan(values)) == 2
    assert "snapshot of" not in server.log_text()
    server.stop()
    assert segments_left(server) == []


def test_a_stop_that_keeps_the_memory_writes_the_note_that_somebody_removed(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    write(server, now - 600)
    before = content(server, now)
    (server.directory / "run" / "instance.json").unlink()
    with server.client() as client:
        client.control("stop", "keep")
    assert server.wait() == 0
    server.start()
    assert ADOPTED in server.log_text()
    assert content(server, now) == before


def test_a_stop_whose_note_cannot_be_written_frees_the_memory_and_ends_in_order(
    serve: Serve, now: int
) -> None:
    server = serve(CONFIG)
    write(server, now - 600)
    before = content(server, now)
    note = server.directory / "run" / "instance.json"
    note.unlink()
    (note.with_suffix(".tmp")).mkdir()
    with server.client() as client:
        client.control("stop", "keep")
    assert server.wait() == 0
    assert "the memory is not kept" in server.log_text()
    assert segments_left(server) == []
    (note.with_suffix(".tmp")).rmdir()
    server.start()
    assert ADOPTED not in server.log_text()
    assert content(server, now) == before


def test_kill_9_of_all_processes_costs_no_reading_of_files(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    write(server, now - 600)
    before = content(server, now)
    for k in range(3):
        server.kill()
        server.start()
        assert server.log_text().count(ADOPTED) == k + 1
        assert content(server, now) == before
    write(server, now - 60)
    assert content(server, now) != before
    server.stop()
    assert segments_left(server) == []


def test_after_kill_9_of_the_persister_the_others_go_on_over_the_same_memory(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    write(server, now - 600)
    before, first = content(server, now), server.worker_pid("persister")
    os.kill(first, signal.SIGKILL)
    until(lambda: ADOPTED in server.log_text(), "the adoption")
    assert content(server, now) == before
    assert server.worker_pid("persister") not in (0, first)
    write(server, now - 540)


@pytest.mark.parametrize("how", ["command", "configuration", "option"])
def test_a_stop_that_keeps_memory_leaves_it_for_the_next_start(serve: Serve, now: int, how: str) -> None:
    config = CONFIG + ("keep_memory = true\n" if how == "configuration" else "")
    server = serve(config, *(["--keep-memory"] if how == "option" else []))
    write(server, now - 600)
    before = content(server, now)
    if how == "command":
        with server.client() as client:
            client.control("stop", "keep")
        assert server.wait() == 0
    else:
        assert server.stop() == 0
    assert {path.name for path in (server.directory / "run").iterdir()} & {"instance.json", "kept.json"} == {
        "kept.json"
    }
    with pytest.raises(Unavailable, match="no store runs"):
        mstore.attach(server.directory)
    server.start()
    assert ADOPTED in server.log_text()
    assert content(server, now) == before
    assert not (server.directory / "run" / "kept.json").exists()
    with server.client() as client:
        client.control("stop", "free")
    assert server.wait() == 0
    assert segments_left(server) == []


def test_kept_memory_of_a_stopped_store_is_given_back_by_a_command_and_nothing_is_lost(
    serve: Serve, now: int, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(CONFIG)
    write(server, now - 600)
    before = content(server, now)
    command = ["stop", "--free-memory", "--dir", str(server.directory)]
    with server.client() as client:
        client.control("stop", "keep")
    assert server.wait() == 0
    kept = segments_left(server)
    assert main.main(command) == 0
    assert f"{len(kept)} segments of kept memory freed" in capsys.readouterr().out
    assert segments_left(server) == []
    assert main.main(command) == 1, "there is nothing more to stop or to free"
    assert "no store answers" in capsys.readouterr().err
    server.start()
    assert content(server, now) == before


def test_an_empty_store_keeps_nothing(serve: Serve) -> None:
    server = serve(CONFIG + "keep_memory = true\n")
    server.stop()
    assert segments_left(server) == []


def damage_link(server: Server) -> None:
    directory = layout.DIRECTORY.fields
    assert directory is not None
    region = layout.DIRECTORY_AT + layout.REGION_NAMES.index("series") * layout.REGION.itemsize
    series = peek(server, "directory", region)
    fields = layout.SERIES.fields
    assert fields is not None
    link0 = fields["link0"][1]
    poke(
        server,
        "directory",
        series + link0,
        peek(server, "directory", series + layout.SERIES.itemsize + link0),
    )


def another_boot(server: Server) -> None:
    fields = layout.SEGMENT_HEADER.fields
    assert fields is not None
    poke(server, "samples", fields["boot_id"][1], 12345, 16)


def in_the_middle(server: Server) -> None:
    fields = layout.DIRECTORY.fields
    assert fields is not None
    at = layout.DIRECTORY_AT + fields["critical"][1]
    poke(server, "directory", at, peek(server, "directory", at) + 1)


def log_gone(server: Server) -> None:
    """The log of a backup: it ends before what the memory holds. Only the newest segments are younger."""
    for path in sorted((server.directory / "wal").glob("*.wal"))[1:]:
        path.unlink()


def segment_gone(server: Server) -> None:
    names = json.loads((server.directory / "run" / "instance.json").read_text())["segments"]
    segment.unlink(names["ring-0"])


def cut_short(server: Server) -> None:
    """With a header that agrees."""
    names = json.loads((server.directory / "run" / "instance.json").read_text())["segments"]
    os.truncate(segment.SHM_DIR / names["directory"], 3 * layout.PAGE_BYTES)
    fields = layout.SEGMENT_HEADER.fields
    assert fields is not None
    poke(server, "directory", fields["reserved_bytes"][1], 3 * layout.PAGE_BYTES)


def strange_name(server: Server) -> None:
    note = server.directory / "run" / "instance.json"
    content = json.loads(note.read_text())
    content["segments"]["ring-0"] += "/x"
    note.write_text(json.dumps(content))


def no_note(server: Server) -> None:
    (server.directory / "run" / "instance.json").write_text("{")


REFUSALS: dict[str, tuple[Callable[[Server], None], str]] = {
    "never filled": (lambda s: poke(s, "control", layout.STORE_APPLIED, 0), "before its memory was filled"),
    "in the middle of a change": (in_the_middle, "in the middle of a change"),
    "another boot": (another_boot, "boot_id"),
    "a link to another series": (damage_link, "the samples are damaged"),
    "another log": (
        lambda s: poke(s, "control", layout.STORE_LOG_ID, 77),
        "not the one this memory was filled from",
    ),
    "a log that ends earlier": (log_gone, "not the one this memory was filled from"),
    "more applied than logged": (
        lambda s: poke(s, "control", layout.STORE_APPLIED, 10**6),
        "does not hold what this memory holds",
    ),
    "more written than logged": (
        lambda s: poke(s, "control", layout.STORE_WRITTEN, 10**6),
        "does not hold what this memory holds",
    ),
    "a segment that is cut short": (cut_short, "ends outside the segment"),
    "a name that cannot be one": (strange_name, "cannot be the name of a segment"),
    "a segment is gone": (segment_gone, "no segment"),
    "a note that is damaged": (no_note, "does not say which segments"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_memory_that_is_not_what_the_log_says_is_refused_with_the_reason(
    serve: Serve, now: int, what: str
) -> None:
    change, reason = REFUSALS[what]
    server = serve(CONFIG)
    write(server, now - 600)
    server.kill()
    server.start()  # the log has a second segment now, and what was written is in the first
    before = content(server, now)
    adopted = server.log_text().count(ADOPTED)
    server.kill()
    change(server)
    server.start()
    text = server.log_text()
    assert text.count(ADOPTED) == adopted
    assert reason in text
    assert content(server, now) == before
    write(server, now - 60)
    server.stop()
    assert segments_left(server) == []


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ("ingest_workers = 2\n", True),
        ('ring_bytes = "4MiB"\n', True),
        ("max_series = 1000\n", False),
        ('memory_cap = "256MiB"\n', False),
    ],
)
def test_a_restart_with_another_configuration_keeps_the_memory_where_it_fits(
    serve: Serve, now: int, changed: str, kept: bool
) -> None:
    server = serve('retention = "0"\nquery_workers = 1\n')
    write(server, now - 600)
    before = content(server, now)
    (server.directory / "mstore.toml").write_text('retention = "0"\nquery_workers = 1\n' + changed)
    with server.client(timeout=60) as client:
        client.control("restart")
    assert (ADOPTED in server.log_text()) is kept
    assert ("the memory is made anew" in server.log_text()) is not kept
    assert content(server, now) == before
    write(server, now - 540)
    after = content(server, now)
    server.kill()
    server.start()
    assert content(server, now) == after


def test_a_change_of_types_that_a_kill_cut_short_holds_nobody_after_the_adoption(
    serve: Serve, now: int
) -> None:
    server = serve(CONFIG)
    write(server, now - 600)
    server.kill()
    poke(server, "control", layout.STORE_FLAGS, layout.FLAG_HOLD, 4)
    server.start()
    assert ADOPTED in server.log_text()
    write(server, now - 540)


def test_a_second_crash_right_after_an_adoption_loses_nothing(serve: Serve, now: int) -> None:
    server = serve(CONFIG)
    for k in range(6):
        write(server, now - 600 + 60 * k)
        before = content(server, now)
        server.kill()
        # Killed again at some moment of its start, then left to finish one.
        server.start_and_kill_after(0.05 + 0.12 * k)
        server.start()
        assert content(server, now) == before


def test_dir_of_another_store_does_not_adopt_this_ones_memory(
    serve: Serve, short_dir: Path, now: int
) -> None:
    server = serve(CONFIG)
    write(server, now - 600)
    server.kill()
    note = (short_dir / "run" / "instance.json").read_text()
    other = short_dir / "other"
    (other / "run").mkdir(parents=True)
    (other / "run" / "instance.json").write_text(note)
    second = Server(other, CONFIG).start()
    try:
        assert "is another directory's" in second.log_text()
        with second.client() as client, pytest.raises(MstoreError):
            client.query("c", "h0", "cpu", now - 3600, now)
    finally:
        second.stop()
    server.start()

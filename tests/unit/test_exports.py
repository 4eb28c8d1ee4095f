"""When exports are due, what the helper writes and how fast, and what a helper process answers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mstore import config
from mstore.compat.source import attached
from mstore.config import ExportSettings
from mstore.errors import StorageError
from mstore.persistence.files import export_note_path
from mstore.persistence.store_lock import lock
from mstore.workers.births import Process
from mstore.workers.export import Job, write
from mstore.workers.exports import due, last_note
from mstore.workers.helper import Helper
from mstore.workers.ownership import inode_of
from tests.query_rig import T0, Store

HOUR = 3600
TARGET = Path("/target")
SETTINGS = ExportSettings(directory="target", interval_s=HOUR)
NOON = 1_700_000_000 // 86_400 * 86_400 + 12 * HOUR


def last(end: int, **more: Any) -> dict[str, Any]:
    return {"directory": "/target", "format": "bin", "window_s": HOUR, "end": end, "at_s": end, **more}


def test_without_a_directory_nothing_is_due() -> None:
    assert due(ExportSettings(), TARGET, {}, NOON, HOUR) is None


def test_the_first_export_goes_back_as_far_as_keep_or_retention() -> None:
    def first(keep_s: int, retention_s: int) -> int:
        settings = ExportSettings(directory="target", interval_s=HOUR, keep_s=keep_s)
        window = due(settings, TARGET, {}, NOON + 600, retention_s)
        assert window is not None
        assert window[1] == NOON
        return (NOON - window[0]) // HOUR

    assert [first(0, 48 * HOUR), first(5 * HOUR, 48 * HOUR), first(5 * HOUR, 2 * HOUR), first(0, 0)] == [
        48,
        5,
        2,
        48,
    ]


def test_an_interval_is_due_a_minute_after_its_end_and_takes_the_one_before_along() -> None:
    assert due(SETTINGS, TARGET, last(NOON), NOON + HOUR + 59, 0) is None
    assert due(SETTINGS, TARGET, last(NOON), NOON + HOUR + 60, 0) == (NOON - HOUR, NOON + HOUR)
    assert due(SETTINGS, TARGET, last(NOON + HOUR), NOON + HOUR + 600, 0) is None


def test_what_was_missed_without_a_store_is_due_as_far_as_it_is_kept() -> None:
    now_s = NOON + 60
    assert due(SETTINGS, TARGET, last(NOON - 10 * HOUR), now_s, 0) == (NOON - 11 * HOUR, NOON)
    assert due(SETTINGS, TARGET, last(NOON - 100 * HOUR), now_s, 24 * HOUR) == (NOON - 24 * HOUR, NOON)


@pytest.mark.parametrize("changed", [{"directory": "/other"}, {"format": "json"}, {"window_s": 60}])
def test_another_directory_format_or_interval_begins_anew(changed: dict[str, Any]) -> None:
    assert due(SETTINGS, TARGET, last(NOON, **changed), NOON + 60, 5 * HOUR) == (NOON - 5 * HOUR, NOON)


def test_a_log_is_written_as_a_whole() -> None:
    settings = ExportSettings("wal", "target", HOUR)
    assert due(settings, TARGET, last(NOON - HOUR, format="wal"), NOON + 60, 5 * HOUR) == (
        NOON - 5 * HOUR,
        NOON,
    )


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"end": 1.5, "at_s": 1, "window_s": 1}'])
def test_a_note_that_cannot_be_read_is_none(tmp_path: Path, text: str | None) -> None:
    export_note_path(tmp_path).parent.mkdir()
    if text is not None:
        export_note_path(tmp_path).write_text(text)
    assert last_note(tmp_path) == {}


def test_the_table_is_read_written_and_checked() -> None:
    text = '[export]\ndirectory = "out"\nformat = "json"\ninterval = "1h"\nkeep = "2d"\n'
    found = config.parse(text).export
    assert found == ExportSettings("json", "out", HOUR, 48 * HOUR)
    assert config.parse(config.render(config.parse(text))).export == found
    assert found.target(Path("/store")) == Path("/store/out")
    assert ExportSettings(directory="/a").target(Path("/store")) == Path("/a")
    for wrong in ('format = "avro"', 'interval = "1s"', "directory = 7", 'keeps = "1d"'):
        with pytest.raises(
            config.ConfigError if hasattr(config, "ConfigError") else ValueError, match="export"
        ):
            config.parse(f"[export]\n{wrong}\n")


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-test-exports-{os.getpid()}")
    yield made
    made.close()


def test_each_window_becomes_files_of_its_own_and_old_ones_go(store: Store, tmp_path: Path) -> None:
    start = T0 // HOUR * HOUR
    for host in ("f1", "f2"):
        store.put(store.open("load", host, t=start), start, [float(k) for k in range(180)])
    old = tmp_path / "out" / "fritz" / "f1" / f"{start - 10 * HOUR}.bin"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    lock_fd = lock(tmp_path)
    os.close(lock_fd)
    inode = inode_of(tmp_path / "lock")
    out = str(tmp_path / "out")
    job = Job(str(tmp_path), 1, 1, out, "bin", start, start + 3 * HOUR, HOUR, 5 * HOUR, inode)
    rests: list[float] = []
    done = write(job, attached(store.reader), lambda line: None, rests.append)
    assert sorted(path.name for path in (tmp_path / "out/fritz/f1").iterdir()) == [
        f"{start + k * HOUR}.bin" for k in range(3)
    ]
    assert (done.n_files, done.n_hosts, done.n_series, done.n_samples) == (6, 2, 2, 360)
    assert len(rests) == 6
    assert all(0 <= rest <= 0.2 for rest in rests)


def test_a_log_s_windows_are_one() -> None:
    job = Job("/store", 1, 1, "/target", "wal", 0, 5 * HOUR, HOUR, 0, None)
    assert job.windows() == [(0, 5 * HOUR)]


class Python:
    """In place of a nursery: the process is a command of Python that the test gives."""

    def __init__(self, code: str) -> None:
        self._code = code

    def start(self, main: str, argument: str, descriptors: Mapping[int, int]) -> Process:
        assert main == "export"
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in descriptors.items()]
        command = [sys.executable, "-c", self._code, argument]
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
        return Process(pid, os.pidfd_open(pid))


def helper(code: str) -> Helper:
    return Helper(Python(code), 2, "export", "the test helper")  # type: ignore[arg-type]  # what it needs of a nursery


def test_a_helper_is_given_its_job_and_tells() -> None:
    one = helper(
        "import json, sys\njob = json.loads(sys.argv[1])\n"
        "print(json.dumps({'share': 0.5}))\nprint(json.dumps({'done': {'was': job['a']}}))\n",
    )
    told: list[dict[str, Any]] = []
    assert asyncio.run(one.run({"a": 7}, told.append)) == {"was": 7}
    assert told == [{"share": 0.5}]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('print(\'{"failed": "no room"}\'); raise SystemExit(3)', "the test helper failed: no room"),
        ("raise SystemExit(4)", "the test helper failed: it ended with status 4"),
        ("print('{\"done\": {}}'); raise SystemExit(5)", "the test helper failed: it ended with status 5"),
    ],
)
def test_a_helper_that_fails_says_why(code: str, said: str) -> None:
    with pytest.raises(StorageError, match=said):
        asyncio.run(helper(code).run({}, lambda line: None))


def test_a_helper_that_cannot_be_started_is_an_error_of_the_store() -> None:
    class Nobody:
        def start(self, *_: Any) -> Process:
            raise OSError("no process left")

    one = Helper(Nobody(), 2, "export", "the test helper")  # type: ignore[arg-type]  # what it needs of a nursery
    with pytest.raises(StorageError, match="the test helper cannot be started: no process left"):
        asyncio.run(one.run({}, lambda line: None))


def test_a_helper_that_is_killed_before_it_runs_ends_as_well() -> None:
    one = helper("import time\ntime.sleep(60)\n")
    one.kill()
    with pytest.raises(StorageError, match="ended with status -9"):
        asyncio.run(one.run({}, lambda line: None))


def test_who_waits_no_longer_for_a_helper_s_end_is_not_held_by_it() -> None:
    one = helper("import os, time\nos.close(1)\ntime.sleep(600)\n")

    async def given_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(one.run({}, lambda line: None), 1)

    asyncio.run(given_up())
    assert one._process is None, "killed, and waited for"


def test_a_helper_that_says_what_nobody_understands_is_ended() -> None:
    one = helper("import time\nprint('no JSON', flush=True)\ntime.sleep(60)\n")
    with pytest.raises(ValueError, match="Expecting value"):
        asyncio.run(one.run({}, lambda line: None))
    assert one._process is None, "it was waited for"


def test_the_note_of_an_export_is_json_that_info_reads(tmp_path: Path) -> None:
    export_note_path(tmp_path).parent.mkdir()
    export_note_path(tmp_path).write_text(json.dumps(last(NOON, files=3)))
    assert last_note(tmp_path)["files"] == 3

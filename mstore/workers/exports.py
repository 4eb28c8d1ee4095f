"""When exports are due, and the helper process that writes them: the persister's side of [export].

Intervals end at whole multiples of their length since 1970. A minute after one has ended the files of that interval are
written, and those of the one before once more: so a sample that came late is in them, too. After a time without a
store, everything since the last export is written. One that fails is tried again after a while that doubles.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstore import clock
from mstore.config import ExportSettings
from mstore.errors import MstoreError, StorageError
from mstore.persistence.files import export_note_path
from mstore.workers.helper import Helper

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 10.0
_GRACE_S = 60
"""After an interval has ended: senders are allowed to be a little late."""
_RETRY_S_MIN, _RETRY_S_MAX = 10.0, 600.0
_EMPTY_S = 600.0
"""Where there was nothing to export, so long until the next look."""
_SPAN_S = 48 * 3600
"""How far the first export goes back where neither `keep` nor retention says."""


class Exports:
    """Owned by the persister."""

    def __init__(self, persister: Persister) -> None:
        self._persister = persister
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._helper: Helper | None = None
        self._retry_wait_s = self._retry_at_s = 0.0
        self._stopped = False

    def start(self) -> None:
        self._look()

    async def stop(self) -> None:
        """End the timer and the helper: what it has not finished is written by a later one."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            if self._helper is not None:
                self._helper.kill()
            await asyncio.wait({self._task})

    def _look(self) -> None:
        if self._stopped:
            return
        if self._task is None and clock.monotonic_s() >= self._retry_at_s:
            config, store_dir = self._persister.config, self._persister.spec.directory
            window = due(
                config.export,
                config.export.target(store_dir),
                last_note(store_dir),
                clock.now_s(),
                config.retention_s,
            )
            if window is not None:
                self._task = asyncio.get_running_loop().create_task(self._run(*window))
        self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    async def _run(self, start: int, end: int) -> None:
        slot, began_s = self._persister.slot, clock.monotonic_s()
        slot.set("export_began_s", clock.now_s())
        failure: MstoreError | None = None
        done: dict[str, Any] = {"samples": 0}
        try:
            done = await self._write(start, end)
        except MstoreError as error:
            failure = error
        except Exception as error:
            failure = StorageError(f"the export helper failed: {error}")
            log.exception("no export")
        wait_s = 0.0 if done["samples"] else _EMPTY_S
        if failure is not None and not self._stopped:
            slot.add("export_errors")
            wait_s = self._retry_wait_s = min(max(2 * self._retry_wait_s, _RETRY_S_MIN), _RETRY_S_MAX)
            log.error("no export: %s; it is tried again in %.0f s", failure, wait_s)
        elif done["samples"]:
            self._retry_wait_s = 0.0
            slot.add("exports")
            slot.add("export_bytes", done["bytes"])
            took_s = clock.monotonic_s() - began_s
            log.info("exported %d files, %d bytes in %.1f s", done["files"], done["bytes"], took_s)
        self._retry_at_s = clock.monotonic_s() + wait_s
        for name in ("export_permille", "export_began_s"):
            slot.set(name, 0)
        self._task = self._helper = None

    async def _write(self, start: int, end: int) -> dict[str, Any]:
        spec, settings = self._persister.spec, self._persister.config.export
        job = {
            "store_dir": spec.store_dir,
            "instance": spec.instance,
            "lock_inode": spec.lock_inode,
            "parent_pid": os.getpid(),
            "directory": str(settings.target(spec.directory)),
            "format": settings.format,
            "start": start,
            "end": end,
            "window_s": settings.interval_s,
            "keep_s": settings.keep_s,
        }
        self._helper = self._persister.helper("export", "the export helper")
        return await self._helper.run(
            job, lambda line: self._persister.slot.set("export_permille", int(1000 * line["share"]))
        )


def due(
    settings: ExportSettings, target: Path, last: dict[str, Any], now_s: int, retention_s: int
) -> tuple[int, int] | None:
    """[start, end) of the export that is due, None when there is none.

    target  the directory
    last    what last_note() says of the one before
    """
    if not settings.directory:
        return None
    step_s = settings.interval_s
    end = (now_s - _GRACE_S) // step_s * step_s
    span_s = min((one for one in (settings.keep_s, retention_s) if one), default=_SPAN_S)
    oldest = (now_s - span_s) // step_s * step_s
    said = last.get("directory"), last.get("format"), last.get("window_s")
    if said != (str(target), settings.format, step_s):
        return (oldest, end) if oldest < end else None
    if last["end"] >= end:
        return None
    return oldest if settings.format == "wal" else max(oldest, last["end"] - step_s), end


def last_note(store_dir: Path) -> dict[str, Any]:
    """What the last export did, for `info` and for the next one; empty when there is none that can be read."""
    try:
        found = json.loads(export_note_path(store_dir).read_text())
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(
        type(found.get(key)) is int for key in ("end", "at_s", "window_s")
    )
    return found if whole else {}

"""Who is protected: taken from the providers and from commands, logged, applied, kept beside memory.

When a provider fails, what it said last holds: data that should have gone later costs memory, data that went too early is
lost. Nothing here waits for a provider: a process of its own asks (providers.py), and its lines arrive like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mstore import clock, faults
from mstore.config import shortest_s
from mstore.errors import Degraded, InvalidRequest, StorageError
from mstore.persistence.files import Files
from mstore.shm.protection import NOT_S, Source, encode
from mstore.times import utc_text
from mstore.workers import protected_note
from mstore.workers.provider_job import ProviderJob
from mstore.workers.timers import Timers

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
"""How exactly `until` is kept, and how soon a provider's process that died is started again."""
_LINE_BYTES_MAX = 64 << 20


class Protecting:
    """Owned by the persister's housekeeping."""

    def __init__(self, persister: Persister, files: Files, timers: Timers) -> None:
        self._persister = persister
        self._files = files
        self._timers = timers
        self._wanted: dict[Source, Mapping[str, Sequence[str]]] = {}
        """What a provider said and the log did not take yet."""
        self._failing: dict[Source, str] = {}
        self._job: ProviderJob | None = None
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopped = False

    def start(self) -> None:
        self._persister.slot.set("protected_hosts", len(self._persister.store.protection))
        self._look()

    async def stop(self) -> None:
        self._stopped = True
        await self._end_provider()

    def state(self) -> dict[str, Any]:
        """For `mstore debug`."""
        protection = self._persister.store.protection
        by_source = {source.name.lower(): _count(protection.hosts(source)) for source in Source}
        failing = {source.name.lower(): why for source, why in self._failing.items()}
        return {"hosts": len(protection), "by_source": by_source, "failing": failing}

    # --- what holds

    def protect(self, cluster: str, hosts: Sequence[str], until_s: int) -> dict[str, Any]:
        """A command: protect these hosts until a time, FOR_GOOD_S = until it is taken back, NOT_S = take it back.

        returns how many hosts are protected then, by anybody
        raises  InvalidRequest for a time that is over; StorageError, Degraded: nothing has changed
        """
        if NOT_S < until_s <= (now_s := clock.now_s()):
            raise InvalidRequest(
                f"{utc_text(until_s)} is past, it is {utc_text(now_s)} now: protect until a time to come"
            )
        self._follow(encode(Source.COMMAND, until_s, cluster, hosts))
        return {"protected": len(self._persister.store.protection)}

    def _follow(self, records: bytes) -> None:
        """Log, then apply. raises StorageError, Degraded: nothing has changed"""
        persister = self._persister
        if records:
            persister.log_first(records)
            faults.hit("protect.written")
            persister.store.apply_block(records)
            self._note()

    def _note(self) -> None:
        persister = self._persister
        protected_note.write_if_possible(
            self._files, persister.spec.directory, persister.spec.instance, persister.store.protection
        )
        persister.slot.set("protected_hosts", len(persister.store.protection))

    def _look(self) -> None:
        """Now and then: who is protected no longer, what waits for the log, whether the provider's process lives."""
        if self._persister.store.protection.expire():
            self._note()
        for source in list(self._wanted):
            self._take(source, self._wanted[source])
        self._ask_providers()
        self._timers.later(_LOOK_EVERY_S, self._look)

    # --- providers

    def _ask_providers(self) -> None:
        """Run the process that the configuration asks for; forget what was said by a provider that is no more."""
        config = self._persister.config
        protect = config.protect
        job = ProviderJob(
            str(self._persister.spec.directory), os.getpid(), config.beside(protect.file), protect.url,
            config.beside(protect.token_file), protect.interval_s, shortest_s(config.retentions_s()),
            self._persister.spec.lock_inode,
        )  # fmt: skip
        for source, there in ((Source.FILE, protect.file), (Source.URL, protect.url)):
            if not there:
                self._failing.pop(source, None)
                self._take(source, {})
        if job != self._job:
            self._job = job
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
        wanted = bool(protect.file or protect.url) and not self._stopped
        if wanted and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run(job))

    async def _run(self, job: ProviderJob) -> None:
        """One life of the process; what it says is followed line by line. It ends with this, whatever it said."""
        process: asyncio.subprocess.Process | None = None
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "mstore.workers.providers", job.to_json(),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, start_new_session=True,
                limit=_LINE_BYTES_MAX,
            )  # fmt: skip
            self._process = process
            assert process.stdout is not None
            while line := await process.stdout.readline():
                if not self._stopped and job == self._job:
                    self._heard(json.loads(line))
            status = await process.wait()
            if not self._stopped and job == self._job:
                log.error(
                    "the process that asks who is protected ended with status %d: it is started again", status
                )
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("who is protected cannot be asked: %s", error)
        finally:
            self._process = None
            if process is not None and process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    def _heard(self, line: dict[str, Any]) -> None:
        source = Source(line["source"])
        if "failed" in line:
            self._persister.slot.add("protection_errors")
            if self._failing.get(source) != line["failed"]:
                n_hosts = _count(self._persister.store.protection.hosts(source))
                log.error(
                    "who is protected is not known now, the %d hosts known last stay: %s",
                    n_hosts,
                    line["failed"],
                )
            self._failing[source] = line["failed"]
            return
        if self._failing.pop(source, None):
            log.info("who is protected is known again")
        self._persister.slot.set("protection_heard_s", clock.now_s())
        self._take(source, line["hosts"])

    def _take(self, source: Source, hosts: Mapping[str, Sequence[str]]) -> None:
        """Follow what a provider says; what the log refuses is tried again."""
        try:
            self._follow(self._persister.store.protection.plan(source, hosts))
        except (StorageError, Degraded) as error:
            if source not in self._wanted:
                log.warning("who is protected waits for the log: %s", error)
            self._wanted[source] = hosts
        else:
            self._wanted.pop(source, None)

    async def _end_provider(self) -> None:
        while self._task is not None and not self._task.done():  # the process may only just be starting
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            await asyncio.wait({self._task}, timeout=0.05)


def _count(hosts: Mapping[str, Sequence[str]]) -> int:
    return sum(map(len, hosts.values()))

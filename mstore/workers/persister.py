"""The persister: the one writer. Rings -> log -> shared memory; interning; retention; snapshots."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from functools import partial
from typing import Any

from mstore import clock, faults
from mstore.apply.pool import Pool
from mstore.apply.store import Store, split_records
from mstore.config import Config
from mstore.errors import Degraded, MstoreError, StorageError, StoreFull
from mstore.kernels._ring import RingReader, fence_full
from mstore.persistence import files as persistence_files
from mstore.persistence.blocks import CATALOG
from mstore.persistence.owned_files import OwnedFiles
from mstore.persistence.wal import Wal
from mstore.shm import layout
from mstore.shm.control import WORKER_READY, Control
from mstore.shm.directory import DirectoryWriter
from mstore.workers import memory, opening, settings, states
from mstore.workers.adoption import NotAdopted
from mstore.workers.births import Nursery
from mstore.workers.changeover_ground import Follower
from mstore.workers.channel import Channel
from mstore.workers.definitions import set_policy
from mstore.workers.evictions import Evictions
from mstore.workers.helper import Helper
from mstore.workers.holds import Holds
from mstore.workers.housekeeping import Housekeeping
from mstore.workers.intern_connection import InternConnection
from mstore.workers.log_counters import LogCounters
from mstore.workers.path_interning import PathInterner
from mstore.workers.spec import WorkerSpec
from mstore.workers.tasks import Tasks, take_connection
from mstore.workers.troubles import DAMAGE, LOG, SYNC, Troubles

log = logging.getLogger(__name__)

_DRAIN_BYTES = 1 << 20
"""At most this much of one ring becomes one block: bounds how long interning waits behind it."""
_RETRY_S = 0.2
_STOP_FLUSH_S = 60.0


class Persister:
    """Owns the log and everything in directory and samples. One thread, beside the commit thread that has no Python."""

    def __init__(self, spec: WorkerSpec, nursery: Nursery) -> None:
        self._began_s = clock.monotonic_s()
        self._spec = spec
        self._nursery = nursery
        self._files = OwnedFiles(spec.directory, spec.lock_inode)
        control = memory.attach(spec, "control", writable=True)
        self._directory = memory.attach(spec, "directory", writable=True)
        self._samples_mapping = memory.attach(spec, "samples", writable=True)
        self._ring_mappings = [memory.attach(spec, role, writable=True) for role in memory.ring_roles(spec)]
        self._rings = [RingReader(mapping.segment) for mapping in self._ring_mappings]
        self._control_mapping = control
        self.control = Control(control)
        self.slot = self.control.worker(spec.slot)
        self.slot.claim(layout.WORKER_PERSISTER, 0, os.getpid())
        self.config = settings.take(spec.config_fd)
        self.directory = DirectoryWriter(self._directory.segment, self._directory.fd)
        self.samples = opening.open_samples(
            spec, self._directory.segment, self._samples_mapping.segment, self._samples_mapping.fd
        )
        self.store = Store(self.directory, self.samples)
        self.pool = Pool(self.store, self._fixed_bytes())
        self.evictions = Evictions(self.store, lambda: self.config.memory_cap_bytes)
        self.interner: PathInterner
        self._unlogged: deque[bytes] = deque()
        self._channel = Channel.from_fd(spec.channel_fd)
        self._stopping = asyncio.Event()
        self._retry: asyncio.TimerHandle | None = None
        self._keep_memory = False
        self._draining = False
        self.troubles = Troubles(self.control)
        self._full = False
        self._tasks = Tasks()
        self._connections: set[InternConnection] = set()
        first = 1 + len(spec.ack_fds)
        self._query_slots = [
            (self.control.worker(first + i), follow_fd) for i, follow_fd in enumerate(spec.follow_fds)
        ]
        self._notify_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.follower = Follower(self)
        self.wal: Wal
        self.holds: Holds
        self.housekeeping: Housekeeping

    def _fixed_bytes(self) -> int:
        """What the memory cap counts besides directory and samples."""
        return len(self._control_mapping.buffer) + sum(len(mapping.buffer) for mapping in self._ring_mappings)

    # --- start

    def _open(self) -> None:
        """Read the files back into memory, then open the log behind them."""
        self.control.state = layout.STATE_REPLAYING
        # Another version than any before in this memory: what was ignored is asked for again.
        self.control.config_version += 1
        self.control.flags = 0
        self._apply_policy()
        self.pool.set_cap(self.config.memory_cap_bytes)
        report = opening.fill(
            self._spec, self._files, self.control, self.directory, self.pool, self._rings,
            self.config, lambda text: self._channel.send(["progress", text]),
        )  # fmt: skip
        if report.damaged:
            self.troubles.begin(DAMAGE)
        text = opening.told(self._spec, report, clock.monotonic_s() - self._began_s)
        self._channel.send(["progress", text])
        wal_dir = persistence_files.wal_dir(self._spec.directory)
        dir_fd = self._files.open_dir(wal_dir)
        committer = self._files.committer(
            self._control_mapping.segment,
            [mapping.segment for mapping in self._ring_mappings],
            list(self._spec.ack_fds),
            self._notify_fd,
            report.next_seq - 1,
            dir_fd,
        )
        self.wal = Wal(
            self._files, wal_dir, report.next_seq, committer, dir_fd=dir_fd, on_segment=self._goes_with,
            prepare=report.finish,
        )  # fmt: skip
        self.holds = Holds(self.wal, self.slot)
        self._committer = committer
        self._log_counters = LogCounters(self.slot, self.wal, committer)
        self.housekeeping = Housekeeping(self, self._files, report)
        self.store.on_evict = self.housekeeping.freeing.evicted
        self.follower.follow()
        if self.wal.failure:  # a full disk: what is there is served, and it is said before anybody asks
            self._hold(StorageError(self.wal.failure))

    def _goes_with(self, segment_id: int) -> None:
        """The memory belongs to the log whose newest segment this is."""
        self.control.log_id = segment_id

    def mark_applied(self) -> None:
        """Every block written so far is in memory, whole; query workers with followers are woken."""
        self.control.applied = self.wal.written
        # SYNC POINT (full fence) applied before followers: pairs with Feed._count
        fence_full()
        for slot, follow_fd in self._query_slots:
            if slot.followers:
                os.eventfd_write(follow_fd, 1)

    def _apply_policy(self) -> None:
        config = self.config
        self.control.retention_s = config.retention_s
        self.interner = set_policy(self.directory, config, self.control.config_version)

    # --- rings -> log -> memory

    def drain(self) -> None:
        """Take what the rings hold: one block of each ring in turn, until all are empty."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._spec.doorbell_fd)
        if not self._draining:
            self._drain_some()

    def _drain_some(self) -> None:
        self._draining = False
        if self._retry is not None:
            return
        more = False
        try:
            self.wal.begin()  # it could not at a start on a full disk
        except StorageError as error:
            self._hold(error)
            return
        for index, ring in enumerate(self._rings):
            try:
                more |= self._drain_block(index, ring)
            except (StoreFull, StorageError, Degraded) as error:
                self._hold(error)
                return
        if more:
            # Back through the loop: interning and the supervisor get their turn between blocks. One chain only,
            # however often the bell rings meanwhile.
            self._draining = True
            asyncio.get_running_loop().call_soon(self._drain_some)
        else:
            self._held_no_more()

    def _drain_block(self, index: int, ring: RingReader) -> bool:
        """Log and apply at most one block of one ring; True when the ring holds more.

        raises StoreFull, StorageError, Degraded: the block stays in the ring and its senders wait
        """
        start, head = ring.drained(), ring.head()
        if start == head:
            return False
        faults.hit("drain.begin")
        self.log_the_unlogged()
        payload = ring.view(start, min(head - start, _DRAIN_BYTES))
        stop = start + len(payload)
        if evicted := self.store.make_room(payload, self.housekeeping.freeing.evicted):
            self.slot.add("chunks_evicted", evicted)
        seq = self.wal.write(index, start, stop, payload)
        faults.hit("drain.written")
        result = self.store.apply_block(payload)
        self.housekeeping.archiving.departure.look_for_late(payload, seq)
        faults.hit("drain.applied")
        ring.set_drained(stop)
        # Only now may the commit thread publish the position: it frees these bytes of the ring, and an
        # acknowledgement must not be earlier than the sample's visibility.
        self.wal.note(seq, index, stop)
        faults.hit("drain.noted")
        self.mark_applied()
        os.eventfd_write(self._spec.ack_fds[index], 1)
        self.slot.add("samples_applied", result.n_samples)
        self.slot.add("chunks_evicted", result.n_evicted)
        if result.n_stale:
            self.slot.add("stale_samples", result.n_stale)
            log.error("%d samples named series that are gone: a bug", result.n_stale)
        self._count_log()
        self.housekeeping.look_at_log()
        if self.samples.n_shifts():
            self.housekeeping.follow_shifts()
        return stop < head

    def append_catalog(self, records: bytes) -> None:
        """Log definitions and other records that come from no ring.

        When the log refuses (StorageError, Degraded) they are kept and logged before anything else is: the
        directory holds them already, and a sample that uses them must not be logged before them.
        """
        if len(records) <= _DRAIN_BYTES:
            self._unlogged.append(records)
        else:
            self._unlogged.extend(split_records(records, _DRAIN_BYTES))
        self.log_the_unlogged()

    def admit(self) -> None:
        """Before unknown series are interned: there is room for them, or the directory refuses them."""
        if evicted := self.pool.admit(self.housekeeping.freeing.evicted):
            self.slot.add("chunks_evicted", evicted)

    def log_first(self, records: bytes) -> None:
        """Log records that are applied only if this succeeds: nothing is kept for later."""
        self.log_the_unlogged()
        for piece in split_records(records, _DRAIN_BYTES):
            self.wal.note(self.wal.write(CATALOG, 0, 0, piece), CATALOG, 0)

    def log_the_unlogged(self) -> None:
        if not self._unlogged:
            return
        if made := self.directory.take_log():
            self._unlogged.append(made)  # by a call that raised half way: the directory holds it
        while self._unlogged:
            seq = self.wal.write(CATALOG, 0, 0, self._unlogged[0])
            faults.hit("catalog.written")
            self._unlogged.popleft()
            self.wal.note(seq, CATALOG, 0)
        # What was logged late is published now: live samples and a replay must find the same eras.
        self.directory.publish()

    def _count_log(self) -> None:
        self._log_counters.update()
        self.slot.set("samples_bytes", self.samples.used_bytes())

    def _hold(self, error: MstoreError) -> None:
        """Senders wait: their bytes stay in the rings, nothing is acknowledged, and it is tried again soon."""
        self.slot.add("chunks_evicted", error.details.get("evicted", 0))
        if isinstance(error, StoreFull):
            news, self._full = not self._full, True
            self.control.set_flag(layout.FLAG_FULL, True)
        else:
            news = self.troubles.begin(LOG)
        if news:
            log.error("holding back all writes: %s", error)
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_S, self._retry_now)

    def _retry_now(self) -> None:
        self._retry = None
        self._drain_some()

    def _held_no_more(self) -> None:
        was_full, self._full = self._full, False
        if was_full:
            self.control.set_flag(layout.FLAG_FULL, False)
        if self.troubles.end(LOG) or was_full:
            log.info("writing again")

    def commit_failed(self) -> None:
        """The commit thread met a failing disk and sleeps; the log moves to a new file, or the store is degraded."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._notify_fd)
        if self.wal.poll():
            log.error(
                "an fdatasync failed; everything not yet durable was written to a new file and synced there"
            )
            self.troubles.end(SYNC)
            return
        self.troubles.begin(SYNC)
        log.error("the log cannot be made durable, nothing is acknowledged: %s", self.wal.failure)
        asyncio.get_running_loop().call_later(_RETRY_S, self.commit_failed)

    # --- supervisor

    def state(self) -> dict[str, Any]:
        """For `mstore debug`."""
        first_error, _, n_fsyncs, us_total = self._committer.status()
        return {
            "log": {**self.wal.state(), "first_error": first_error, "fsyncs": n_fsyncs, "fsync_us": us_total},
            "unlogged_definitions": len(self._unlogged),
            "held_back": self._retry is not None,
            "draining": self._draining,
            "interning_connections": len(self._connections),
            "memory": self.store.stats(),
        }

    def _command(self, packet: list[Any], fd: int | None) -> None:
        if packet[0] == "worker" and fd is not None:
            self._tasks.start(self._serve(socket.socket(fileno=fd), packet[1]))
        elif packet[0] == "reload" and fd is not None:
            self._reload(settings.take(fd))
        elif packet[0] == "snapshot":
            self.housekeeping.snapshot(lambda details, error: self._answer(packet[1], details, error))
        elif packet[0] == "archive":
            answer = partial(self._answer, packet[1])
            self.housekeeping.archiving.now(packet[2], packet[3], answer)
        elif packet[0] == "state" and fd is not None:
            states.answer(self._channel, packet[1], fd, self.state)
        elif packet[0] == "order" and fd is not None:
            self.housekeeping.orders.take(
                packet[2], fd, lambda details, error: self._answer(packet[1], details, error)
            )
        elif packet[0] == "hold":
            self.holds.begin(packet[2], lambda details, error: self._answer(packet[1], details, error))
        elif packet[0] == "release":
            self.holds.end(packet[1])
        elif packet[0] == "alive":
            self._channel.send(["alive"])
        elif packet[0] == "stop":
            self._keep_memory = packet[1:] == ["keep"]
            self._stopping.set()

    def _answer(self, command: int, details: dict[str, Any], error: MstoreError | None) -> None:
        if error is None:
            self._channel.send(["done", command, details])
        else:
            self._channel.send(["failed", command, error.code, error.message, error.details])

    def _reload(self, newer: Config) -> None:
        self.config = newer
        self._take_cap()
        self.housekeeping.archiving.follow()
        self._apply_policy_as(self.control.config_version + 1)

    def _take_cap(self) -> None:
        try:
            self.pool.set_cap(self.config.memory_cap_bytes)
        except MstoreError as error:
            log.error("memory_cap stays what it was: %s", error)

    def _apply_policy_as(self, version: int) -> None:
        self.control.config_version = version
        self._apply_policy()
        self.follower.follow()
        self.housekeeping.retention.pass_soon()
        self._wake_workers()

    def _wake_workers(self) -> None:
        """Ingest workers look at the configuration's version when woken."""
        for ack_fd in self._spec.ack_fds:
            os.eventfd_write(ack_fd, 1)

    async def _serve(self, sock: socket.socket, hello: bytes) -> None:
        protocol = await take_connection(sock, lambda: InternConnection(self))
        if protocol is not None:
            protocol.data_received(hello)

    def opened(self, connection: InternConnection) -> None:
        self._connections.add(connection)

    def closed(self, connection: InternConnection) -> None:
        self._connections.discard(connection)

    @property
    def rings(self) -> list[RingReader]:
        return self._rings

    @property
    def segment_fds(self) -> dict[str, int]:
        """What the snapshot helper maps, by role."""
        mappings = {
            "control": self._control_mapping,
            "directory": self._directory,
            "samples": self._samples_mapping,
        }
        return {role: mapping.fd for role, mapping in mappings.items()}

    @property
    def spec(self) -> WorkerSpec:
        return self._spec

    def helper(self, main: str, name: str) -> Helper:
        """A helper process to be run; main and name as Helper takes them."""
        return Helper(self._nursery, self._spec.lock_fd, main, name)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._open()
        except NotAdopted:
            raise  # not the end of the store: the next persister fills new memory from the files
        except MstoreError as error:
            self._channel.send(["fatal", f"cannot start: {error}"])
            raise
        self._channel.serve(loop, self._command, self._stopping.set)
        loop.add_reader(self._spec.doorbell_fd, self.drain)
        loop.add_reader(self._notify_fd, self.commit_failed)
        faults.hit("persister.opened")
        self.housekeeping.start()
        await self.housekeeping.archiving.until_known()
        self._wake_workers()
        self._count_log()  # what the files gave is in memory already, before anything is written
        self.slot.state = WORKER_READY
        self._channel.send(["ready"])
        self.drain()
        await self._stopping.wait()
        await self._close()

    async def _close(self) -> None:
        """Everything published is logged, applied and durable; then, unless memory is kept, a last snapshot."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._spec.doorbell_fd)
        faults.hit("persister.closing")
        while any(ring.drained() != ring.head() for ring in self._rings) and self._retry is None:
            self._drain_some()
            await asyncio.sleep(0)
        self.evictions.stop()
        await self.housekeeping.stop(snapshot=not self._keep_memory)
        if self.wal.close(_STOP_FLUSH_S):
            self.control.applied = self.wal.written  # its last block is a mark
        else:
            log.error("the log was not closed cleanly: %s", self.wal.failure or "it took too long")
        self.slot.release()


async def main(nursery: Nursery, spec: WorkerSpec) -> None:
    """nursery: forks the helpers"""
    await Persister(spec, nursery).run()

"""The configuration a store runs with: read by the supervisor alone, held against what runs, handed to its children.

A child never reads the file. It starts, also as the successor of one that died, with the configuration that was
accepted last; a file that somebody is in the middle of editing is nobody's business until a reload, a restart or a
start, and one that is wrong is refused then with everything left as it is.

What is handed over is the checked object, not a copy of its text: the file's topology files and the command line's
numbers are part of it, so all processes hold the same. It travels in a sealed memfd: no file in DIR that could be
edited, be half written or stay behind, no length that an argument is bound to, and none but the store's own processes
can reach it, which is what pickle asks for.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pickle
from dataclasses import replace
from pathlib import Path

from mstore import config as configuration
from mstore.apply.pool import refuse_cap
from mstore.archive.names import INSTALL
from mstore.config import RESTART_KEYS, SETTINGS, Config
from mstore.errors import ConfigError
from mstore.shm import layout
from mstore.shm.control import CONTROL_BYTES
from mstore.workers.places import refuse_places

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Settings:
    """What the supervisor accepted. raises ConfigError at the start as at every later reading.

    path     the configuration file; None = the defaults
    workers  (ingest, query) as the command line says, None = as configured
    keep_memory  True: whatever the file says
    strict   damaged files are refused when they are read back, at every start of this store's persister
    store_dir  DIR, which archive and export leave alone
    """

    def __init__(
        self,
        path: Path | None,
        workers: tuple[int | None, int | None] = (None, None),
        *,
        keep_memory: bool = False,
        strict: bool = False,
        store_dir: Path | None = None,
    ) -> None:
        self.strict = strict
        self._path = path
        self._workers = workers
        self._keep_memory = keep_memory
        self._store_dir = store_dir
        newer = self._read()
        refuse_impossible(newer, self._store_dir)
        self.current = newer
        self.fd = hand_over(newer)
        """The memfd of `current`, for every child that is started."""

    def reload(self) -> list[str]:
        """Take over the file as it is now; the keys that wait for a restart, and stay as they are until then.

        raises ConfigError: then nothing has changed
        """
        newer = self._read()
        later = self.current.needs_restart(newer)
        kept = {SETTINGS[key].field: getattr(self.current, SETTINGS[key].field) for key in RESTART_KEYS}
        newer = replace(newer, **kept)
        refuse_impossible(newer, self._store_dir)
        self.take(newer)
        return later

    def for_restart(self, n_series: int) -> Config:
        """The file as it is now, if a store with so many series can be started with it.

        raises ConfigError: said while the store still runs, not by the one that cannot start in its place
        """
        newer = self._read()
        if newer.max_series < n_series:
            raise ConfigError(
                f"max_series = {newer.max_series}: this store has {n_series} series; allowed is that or more"
            )
        refuse_impossible(newer, self._store_dir)
        return newer

    def take(self, newer: Config) -> None:
        fd = hand_over(newer)
        os.close(self.fd)
        self.fd, self.current = fd, newer

    def close(self) -> None:
        os.close(self.fd)

    def _read(self) -> Config:
        config = configuration.with_workers(configuration.load(self._path), *self._workers)
        return replace(config, keep_memory=config.keep_memory or self._keep_memory)


def fixed_bytes(config: Config) -> int:
    """What control and rings take of memory_cap: all of it is allocated at the start."""
    n_rings, _ = config.worker_counts(os.cpu_count() or 1)
    return CONTROL_BYTES + n_rings * (layout.RING_DATA + config.ring_bytes)


def refuse_impossible(config: Config, store_dir: Path | None = None) -> None:
    """What can be known without a start of a configuration whose every value is allowed. raises ConfigError"""
    _refuse_without_arrow(config)
    refuse_places(config, store_dir)
    where = f"{config.source}: " if config.source else ""
    refuse_cap(config.memory_cap_bytes, fixed_bytes(config), where)


def _refuse_without_arrow(config: Config) -> None:
    """Said when the configuration is read, and not an hour later by the first pass."""
    if config.archive.writes and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            f'{config.source or "configuration"}: archive.mode = "archive": {INSTALL}', key="archive.mode"
        )


def hand_over(config: Config) -> int:
    """A sealed memfd that take() makes the same configuration of; the caller closes it."""
    content = pickle.dumps(config)
    fd = os.memfd_create("mstore-config", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        done = 0
        while done < len(content):
            done += os.write(fd, content[done:])
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def take(fd: int) -> Config:
    """The configuration in a descriptor of hand_over(), which is closed."""
    try:
        # The place in the file is shared with every other process that was given this one.
        config = pickle.loads(os.pread(fd, os.fstat(fd).st_size, 0))
    finally:
        os.close(fd)
    assert isinstance(config, Config)
    return config

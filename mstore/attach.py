"""mstore.attach(DIR): the store's memory, mapped read-only into this process, and the queries over it.

    DIR/run/instance.json  {"instance": 1234, "segments": {"directory": NAME, "samples": NAME, ...}}
                              |
    /dev/shm/NAME  --- checked (layout, instance, boot), mapped PROT_READ once --->  Reader

No server takes part: an attached program can neither slow the store down nor damage it, and goes on reading
what was there when the store stops. It sees a store that was started again only by attaching again.

One thing is not in memory: the configuration's topologies, by which jobs and nodes are answered. They are asked at
query.sock when such a question comes first, and again when they may have changed.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

from mstore import clock
from mstore.archive.questions import ArchivedQuestions, ArchiveReader
from mstore.client.sync import Client
from mstore.config import Config
from mstore.errors import NotPermitted, Unavailable
from mstore.paths import run_dir, store_dir
from mstore.shm import segment
from mstore.shm.control import Control
from mstore.shm.note import INSTANCE_FILE, KINDS, read_note

_CONFIG_S_MAX = 10.0
"""A reload reaches the persister, who counts it, a moment before or after the query worker that is asked."""
_ASK_S_MAX = 5.0


class _AskedConfig:
    """The configuration of the store, as far as it tells: config.told()."""

    def __init__(self, directory: Path, control: Control) -> None:
        self._directory = directory
        self._control = control
        self._version = -1
        self._asked_s = 0.0
        self._known: Config | None = None

    def __call__(self) -> Config:
        """The last one known when the store has gone; raises Unavailable when none was ever asked."""
        version, now_s = self._control.config_version, clock.monotonic_s()
        if self._known is None or version != self._version or now_s >= self._asked_s + _CONFIG_S_MAX:
            self._version, self._asked_s = version, now_s
            try:
                with Client(self._directory, timeout=_ASK_S_MAX) as client:
                    self._known = client.config()
            except Unavailable as error:
                if self._known is None:
                    raise Unavailable(
                        f"topologies are asked of the store, which does not answer ({error}): "
                        "start it, or give them: attach(DIR, config=...)"
                    ) from None
        return self._known


class Attached(ArchivedQuestions):
    """A Reader over the segments of a running store, and over its archive where it has one.

    Close it, or use it as a context manager. A fork is safe: parent and child look at the same memory, and each closes
    its own.
    """

    def __init__(
        self,
        directory: Path,
        instance: int,
        mappings: dict[str, segment.Mapping],
        config: Config | None = None,
    ) -> None:
        self.store_dir = directory
        self.instance = instance
        self._mappings = mappings
        self._closed = False
        control = Control(mappings["control"])
        asked = _AskedConfig(directory, control) if config is None else lambda: config
        super().__init__(
            mappings["directory"].segment,
            mappings["samples"].segment,
            retention_s=control.asking_retention_s(),
            config=asked,
        )
        self.archive = ArchiveReader(directory, self, lambda: control.left, asked)

    def __enter__(self) -> Attached:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Attached {self.store_dir}{' closed' if self._closed else ''}>"

    def info(self) -> dict[str, Any]:
        """Counts and bytes of the store: plain numbers and texts."""
        return {
            "dir": str(self.store_dir),
            "instance": self.instance,
            "segments": {name: mapping.name for name, mapping in self._mappings.items()},
            "directory": self.directory.counts(),
            "samples_committed_bytes": self._mappings["samples"].committed_bytes,
        }

    @property
    def samples_mapping(self) -> segment.Mapping:
        return self._mappings["samples"]

    def stale(self) -> bool:
        """Whether DIR belongs to another run of the store by now, or to none: attach again."""
        try:
            return read_instance(self.store_dir)[0] != self.instance
        except Unavailable:
            return True

    def close(self) -> None:
        """Give the memory back when nobody looks at it any more: this Reader and its ChunkViews do."""
        self._closed = True
        for mapping in self._mappings.values():
            mapping.close()


def attach(directory: str | os.PathLike[str] | None = None, *, config: Config | None = None) -> Attached:
    """Read a running store from shared memory.

    directory  the store's; default $MSTORE_DIR, else ~/.local/state/mstore
    config     topologies and metrics for questions about jobs and nodes (mstore.config.load(FILE)), instead of
               asking the store for its own
    raises     Unavailable when no store runs there, NotPermitted, LayoutMismatch when it is another version's
    """
    found = store_dir(directory)
    instance, names = read_instance(found)
    mappings: dict[str, segment.Mapping] = {}
    try:
        for what in KINDS:
            mappings[what] = segment.attach(names[what], KINDS[what], instance)
        return Attached(found, instance, mappings, config)
    except BaseException:
        for mapping in mappings.values():
            mapping.close()
        raise


def read_instance(directory: Path) -> tuple[int, dict[str, str]]:
    """(instance, names of the segments) of the store that runs in a directory.

    raises Unavailable, NotPermitted, CorruptRecord
    """
    path = run_dir(directory) / INSTANCE_FILE
    try:
        instance, names = read_note(path)
    except (FileNotFoundError, NotADirectoryError):
        raise Unavailable(f"no store runs in {directory}: there is no {path}", path=str(path)) from None
    except PermissionError:
        raise NotPermitted(f"{path} may not be read by this user", path=str(path)) from None
    return instance, {what: names[what] for what in KINDS}

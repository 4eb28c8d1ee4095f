"""Where archive and export may be: not among a store's own files, and not both in one directory.

A relative name is one in DIR and needs no look. An absolute one is looked up: a directory with a lock and a log in it is
a store, this one or another. `mstore config` does not know which DIR is meant, and recognizes by its absolute name only one
that a store has used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mstore.config import Config
from mstore.errors import ConfigError, shortened
from mstore.persistence import files

_DIR = Path("/DIR")
"""Stands for whichever directory the store will have."""
_OWN = [
    named(_DIR).name
    for named in (files.wal_dir, files.snapshot_dir, files.run_dir, files.leaving_dir, files.quarantine_dir)
]


def refuse_places(config: Config, store_dir: Path | None = None) -> None:
    """store_dir: DIR, where it is known

    raises ConfigError: archive or export are a store's DIR or in its own directories, or share a directory"""
    where = config.source or "configuration"
    places = {"archive.directory": config.archive.directory}
    if config.export.directory:
        places["export.directory"] = config.export.directory
    for key, directory in places.items():
        for taken in _stores_own(directory, store_dir):
            raise ConfigError(
                f'{where}: {key} = "{shortened(directory)}" is not allowed: {taken}; expected a directory outside, or'
                f" one in DIR beside {', '.join(_OWN[:-1])} and {_OWN[-1]}",
                key=key, value=directory,
            )  # fmt: skip
    export = config.export.directory
    if export and config.archive.reads and _whole(export) == _whole(config.archive.directory):
        raise ConfigError(
            f'{where}: export.directory = "{shortened(export)}" is not allowed: archive.directory is the same;'
            " expected a directory of its own",
            key="export.directory", value=export,
        )  # fmt: skip


def _whole(directory: str) -> Path:
    """Without links and "..", below _DIR when it is relative."""
    return Path(os.path.realpath(_DIR / Path(directory).expanduser()))


def _stores_own(directory: str, store_dir: Path | None) -> Iterator[str]:
    """What a store has there itself; nothing where there is room for others."""
    place, ours = _whole(directory), store_dir and Path(os.path.realpath(store_dir))
    if place == ours or _is_store(place):
        yield "that is DIR itself"
    for inner in (place, *place.parents):
        if inner.name in _OWN and (inner.parent == ours or _is_store(inner.parent)):
            yield f"DIR/{inner.name} is the store's own"


def _is_store(directory: Path) -> bool:
    return directory == _DIR or (
        os.path.isfile(files.lock_path(directory)) and os.path.isdir(files.wal_dir(directory))
    )

"""Where a store lives and where its sockets are.

DIR/run/ingest.sock    lines and columns in
DIR/run/query.sock     questions
DIR/run/control.sock   the store's own processes, stop, reload, snapshot (0600)
"""

from __future__ import annotations

import os
from pathlib import Path

from mstore import limits
from mstore.errors import ConfigError

SOCKETS = ("ingest", "query", "control")


def default_dir() -> Path:
    """$MSTORE_DIR, else ~/.local/state/mstore."""
    chosen = os.environ.get("MSTORE_DIR")
    return Path(chosen) if chosen else Path.home() / ".local" / "state" / "mstore"


def store_dir(directory: str | os.PathLike[str] | None) -> Path:
    """The directory meant by an argument that may be missing; `~` is the home directory. raises ConfigError for "" """
    if directory == "":
        raise ConfigError(
            'the directory of the store is "": name one, or leave it out for $MSTORE_DIR or the default'
        )
    return Path(directory).expanduser() if directory is not None else default_dir()


def run_dir(directory: Path) -> Path:
    return directory / "run"


def socket_path(directory: Path, which: str) -> str:
    """The path of a store's socket, short enough for the system.

    which   one of SOCKETS
    raises  ConfigError when the path is longer than a Unix socket's address can be
    """
    assert which in SOCKETS, which
    path = str(run_dir(directory) / f"{which}.sock")
    n = len(os.fsencode(path))
    if n > limits.SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            f"{path} is {n} bytes long, a Unix socket's path at most {limits.SOCKET_PATH_BYTES_MAX}: "
            "choose a shorter directory",
            path=path,
        )
    return path

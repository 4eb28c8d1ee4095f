"""What happens before a store starts: the platform, its directory."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from mstore import paths
from mstore.errors import StorageError, UnsupportedPlatform
from mstore.workers.incarnation import give_to_group


def check_platform() -> None:
    """One clear line where mstore's server cannot run."""
    if sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"):
        raise UnsupportedPlatform(
            f"the mstore server runs on Linux on x86-64 and aarch64, not on {sys.platform} {os.uname().machine};"
            " the client library works everywhere"
        )


def prepare_dir(store_dir: Path) -> Path:
    """DIR and DIR/run, 0750; the real path. raises StorageError; ConfigError, before anything is made: it is too long"""
    real = Path(os.path.realpath(store_dir))
    for which in paths.SOCKETS:
        paths.socket_path(real, which)
    try:
        if not store_dir.is_dir():
            store_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
            # Whatever the umask: the group reads. A DIR that was there keeps what its owner chose.
            store_dir.chmod(0o750)
        prepare_run(store_dir)
    except OSError as error:
        raise StorageError(
            f"cannot use the directory {store_dir}: {error.strerror}; choose another with --dir or $MSTORE_DIR",
            path=str(store_dir), errno=error.errno or 0,
        ) from error  # fmt: skip
    return real


def prepare_run(store_dir: Path) -> None:
    """DIR/run, 0750, for the group of DIR. One that the service manager made for us is taken as it is. raises OSError"""
    run = paths.run_dir(store_dir)
    run.mkdir(mode=0o750, exist_ok=True)
    if stat.S_IMODE(run.stat().st_mode) != 0o750:
        run.chmod(0o750)
    give_to_group(run, store_dir)

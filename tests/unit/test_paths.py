"""Where a store is looked for, and socket paths that are too long; what `import mstore` offers."""

import subprocess
import sys
from pathlib import Path

import pytest

import mstore
from mstore import limits, paths
from mstore.errors import ConfigError


def test_default_directory_is_mstore_dir_else_in_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MSTORE_DIR", str(tmp_path))
    assert paths.default_dir() == tmp_path
    assert paths.store_dir(None) == tmp_path
    monkeypatch.setenv("MSTORE_DIR", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert paths.default_dir() == Path("/home/someone/.local/state/mstore")
    assert paths.store_dir("~/x") == Path("/home/someone/x")


def test_sockets_are_in_run() -> None:
    assert paths.socket_path(Path("/d"), "ingest") == "/d/run/ingest.sock"
    assert {paths.socket_path(Path("/d"), which) for which in paths.SOCKETS} == {
        "/d/run/ingest.sock",
        "/d/run/query.sock",
        "/d/run/control.sock",
    }


def test_longest_socket_path_is_allowed_and_one_byte_more_is_explained() -> None:
    room = limits.SOCKET_PATH_BYTES_MAX - len("/run/query.sock") - 1
    assert len(paths.socket_path(Path("/" + "d" * room), "query")) == limits.SOCKET_PATH_BYTES_MAX
    with pytest.raises(ConfigError, match=r"108 bytes long.*at most 107: choose a shorter"):
        paths.socket_path(Path("/" + "d" * (room + 1)), "query")
    with pytest.raises(ConfigError):
        paths.socket_path(Path("/" + "ü" * (room // 2 + 1)), "query")


def test_every_public_name_of_the_package_is_there() -> None:
    for name in mstore.__all__:
        assert getattr(mstore, name) is not None
    assert dir(mstore) == sorted(mstore.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mstore.nothing


def test_attach_is_the_function_whatever_was_imported_first() -> None:
    code = (
        "import mstore\nfrom mstore.attach import Attached\nassert callable(mstore.attach), mstore.attach\n"
    )
    code += "import mstore.attach\nassert callable(mstore.attach)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_empty_name_is_not_the_directory_one_stands_in() -> None:
    with pytest.raises(ConfigError, match="the directory of the store is"):
        paths.store_dir("")

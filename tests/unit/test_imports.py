"""What a program pays for that uses a little of mstore: which modules come with an import, a call, a command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mstore.cli.main import MODULES
from tests.unit.test_client_store import FakeStore, fake_store

SERVER = {
    "uvloop",
    "psutil",
    "mstore.shm",
    "mstore.kernels",
    "mstore.query",
    "mstore.workers",
    "mstore.config",
}
"""What nobody needs who has a store do the work."""
RARE = {
    "asyncio",
    "ssl",
    "random",
    "json",
    "difflib",
    "decimal",
    "fractions",
    "tempfile",
    "subprocess",
    "uuid",
}
"""Of the standard library: large, or slow to load, and needed by some calls only."""
MESSAGES = {
    f"mstore.ipc.messages.{name}"
    for name in (
        "archiving", "asking", "control", "following", "interning", "jobs", "life", "listing", "selecting", "writing",
    )
}  # fmt: skip


def loaded(code: str, *argv: str) -> set[str]:
    """The modules that a program has loaded at its end, without those of the bare interpreter."""
    program = f"""
import sys
before = set(sys.modules)
{code}
print("", *(set(sys.modules) - before), sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, timeout=30, check=True
    )
    return set(done.stdout.split())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FakeStore]:
    with fake_store(tmp_path) as found:
        yield found


def test_the_package_alone_loads_none_of_its_modules() -> None:
    assert {name for name in loaded("import mstore") if name.startswith("mstore.")} == set()


def test_to_connect_takes_no_numpy_no_server_and_no_message_but_the_greetings(store: FakeStore) -> None:
    found = loaded("import mstore; mstore.connect(sys.argv[1]).close()", str(store.directory))
    assert "mstore.ipc.messages.connection" in found
    rest = {
        "numpy",
        "mstore.model",
        "mstore.selector",
        "mstore.topology",
        "mstore.hostlists",
        "mstore.frames",
    }
    assert found & (SERVER | RARE | MESSAGES | rest) == set()


def test_to_write_lines_takes_the_messages_of_writing_alone(store: FakeStore) -> None:
    code = "import mstore; mstore.connect(sys.argv[1]).write('m,cluster=c,hostname=h value=1 1')"
    found = loaded(code, str(store.directory))
    assert found & MESSAGES == {"mstore.ipc.messages.writing"}
    assert found & (SERVER | RARE | {"numpy", "mstore.model", "mstore.selector"}) == set()


def test_a_query_takes_numpy_and_the_messages_of_asking_alone(store: FakeStore) -> None:
    code = "import mstore; mstore.connect(sys.argv[1]).query('c', 'h', 'm', 0, 300)"
    found = loaded(code, str(store.directory))
    assert "numpy" in found
    assert found & MESSAGES == {"mstore.ipc.messages.asking"}
    assert found & (SERVER | RARE | {"mstore.model", "mstore.selector", "mstore.topology"}) == set()


@pytest.mark.parametrize(
    ("argv", "modules"), [(("--version",), set()), (("info", "--json"), {"info"}), (("ls",), {"look"})]
)
def test_a_command_loads_its_own_module_and_neither_numpy_nor_the_server(
    store: FakeStore, argv: tuple[str, ...], modules: set[str]
) -> None:
    code = "from mstore.cli.main import main; main(sys.argv[1:])"
    found = loaded(code, "--dir", str(store.directory), *argv)
    assert {name for name in MODULES if f"mstore.cli.{name}" in found} == modules
    assert found & (SERVER | {"numpy", "asyncio"}) == set()

"""No process that ends, in whatever way, takes a segment with it: under every Python that is found here.

Python's resource tracker deletes what it has registered. mstore/shm/segment.py is run from its source under
each interpreter; where numpy or the compiled kernels are missing, stand-ins take the place of the layout and
of the word stores, which have no part in this.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mstore.shm import layout, segment

ROOT = Path(__file__).parents[2]
PAGE = layout.PAGE_BYTES
INSTANCE = 77

STAND_INS = """
import json, sys, types
given = json.loads(sys.argv[1])
sys.path.insert(0, given["root"])
try:
    import mstore.kernels._ring
    from mstore.shm import layout
except ImportError:
    def module(name, **members):
        made = types.ModuleType(name)
        made.__dict__.update(members)
        sys.modules[name] = made
        return made
    class Segment:
        def __init__(self, buffer, writable):
            self.view, self.writable = memoryview(buffer), writable
    class Field:
        def __init__(self, itemsize):
            self.itemsize = itemsize
    def load(width):
        return lambda segment, at: int.from_bytes(segment.view[at : at + width], sys.byteorder)
    def store(width):
        def put(segment, at, value):
            segment.view[at : at + width] = value.to_bytes(width, sys.byteorder)
        return put
    for package in ("mstore", "mstore.kernels", "mstore.shm"):
        module(package, __path__=[given["root"] + "/" + package.replace(".", "/")])
    module("mstore.kernels._segment", Segment=Segment)
    module("mstore.kernels._ring", load_u32=load(4), load_u64=load(8), store_u32=store(4), store_u64=store(8))
    fields = {name: (Field(size), offset) for name, (size, offset) in given["fields"].items()}
    sys.modules["mstore.shm"].layout = module(
        "mstore.shm.layout", SEGMENT_HEADER=types.SimpleNamespace(fields=fields), **given["numbers"])
from mstore.shm import segment
name = given["name"]
"""
CREATE = """
mapping = segment.create(name, given["kind"], 4 * 4096, given["instance"])
mapping.buffer[4096:4101] = b"hello"
mapping.mark_ready()
"""
ATTACH = """
mapping = segment.attach(name, given["kind"], given["instance"], writable=given["writable"])
assert bytes(mapping.buffer[4096:4101]) == b"hello"
"""
PLAIN_CREATE = """
from multiprocessing import shared_memory
mapping = shared_memory.SharedMemory(name, create=True, size=4 * 4096)
"""
WAIT = """
print("ready", flush=True)
sys.stdin.readline()
"""


@functools.cache
def interpreters() -> dict[str, str]:
    """This Python and every other one from 3.11 on, found on PATH or installed beside this one."""
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    candidates = [shutil.which(f"python3.{minor}") for minor in range(11, 16)]
    beside = Path(sys.base_prefix).parent
    candidates += [str(path) for path in sorted(beside.glob("3.*/bin/python3"))]
    for candidate in filter(None, candidates):
        version = _version(candidate)
        if version >= (3, 11):
            found.setdefault(f"{version[0]}.{version[1]}", candidate)
    return found


def _version(python: str) -> tuple[int, int]:
    program = "import sys, _posixshmem; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    major, minor = done.stdout.split()
    return int(major), int(minor)


@pytest.fixture
def name() -> Iterator[str]:
    value = f"mstore-test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    yield value
    segment.unlink(value)


@contextmanager
def running(python: str, program: str, name: str, writable: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process that has done `program` and now waits for a line."""
    fields = layout.SEGMENT_HEADER.fields
    assert fields is not None
    numbers = {key: value for key, value in vars(layout).items() if key.isupper() and isinstance(value, int)}
    given = {
        "root": str(ROOT),
        "name": name,
        "kind": layout.SEG_SAMPLES,
        "instance": INSTANCE,
        "writable": writable,
        "numbers": numbers,
        "fields": {field: (dtype.itemsize, offset) for field, (dtype, offset, *_) in fields.items()},
    }
    process = subprocess.Popen(
        [python, "-B", "-W", "error", "-c", STAND_INS + program + WAIT, json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", line + (process.stderr.read() if process.stderr else "")
        yield process
    finally:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str], how: str) -> None:
    if how == "kill -9":
        process.send_signal(signal.SIGKILL)
    output, errors = process.communicate("\n")
    assert process.returncode == (-signal.SIGKILL if how == "kill -9" else 0), errors
    assert errors == ""
    assert output == ""


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def exists(name: str) -> bool:
    return segment.stale(name) == [name]


@pytest.mark.parametrize("how", ["kill -9", "exit"])
@pytest.mark.parametrize("python", interpreters().values(), ids=interpreters())
def test_segment_survives_its_creator(python: str, how: str, name: str) -> None:
    with running(python, CREATE, name) as creator:
        assert children(creator.pid) == "", "a resource tracker was started"
        end(creator, how)
    time.sleep(0.1)
    assert exists(name)
    with segment.attach(name, layout.SEG_SAMPLES, INSTANCE) as mapping:
        assert bytes(mapping.buffer[PAGE : PAGE + 5]) == b"hello"


@pytest.mark.parametrize("how", ["kill -9", "exit"])
@pytest.mark.parametrize("python", interpreters().values(), ids=interpreters())
def test_segment_survives_whoever_attached_it(python: str, how: str, name: str) -> None:
    with segment.create(name, layout.SEG_SAMPLES, 4 * PAGE, INSTANCE) as mapping:
        mapping.buffer[PAGE : PAGE + 5] = b"hello"
        mapping.mark_ready()
        for writable in (False, True):
            with running(python, ATTACH, name, writable=writable) as attached:
                assert children(attached.pid) == "", "a resource tracker was started"
                end(attached, how)
        time.sleep(0.1)
        assert exists(name)
        assert bytes(mapping.buffer[PAGE : PAGE + 5]) == b"hello"


@pytest.mark.parametrize("python", interpreters().values(), ids=interpreters())
def test_plain_shared_memory_of_the_same_python_does_not_survive(python: str, name: str) -> None:
    """Were it otherwise, the tests above would prove nothing."""
    with running(python, PLAIN_CREATE, name) as creator:
        assert exists(name)
        assert children(creator.pid) != ""
        creator.kill()
        creator.wait()
        deadline = time.monotonic() + 10
        while exists(name) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert not exists(name)


def test_reader_that_writes_all_the_same_is_killed_and_the_segment_unharmed(name: str) -> None:
    find = "import ctypes, numpy\naddress = numpy.frombuffer(mapping.buffer, 'u1').ctypes.data + 4096\n"
    write = "ctypes.memset(ctypes.c_void_p(address), 1, 8)\n"
    with segment.create(name, layout.SEG_SAMPLES, 4 * PAGE, INSTANCE) as mapping:
        mapping.buffer[PAGE : PAGE + 5] = b"hello"
        mapping.mark_ready()
        with running(sys.executable, ATTACH + find + WAIT + write, name) as reader:
            reader.communicate("\n")
            assert reader.returncode == -signal.SIGSEGV
        assert bytes(mapping.buffer[PAGE : PAGE + 5]) == b"hello"

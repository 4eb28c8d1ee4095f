"""The tree reads itself: rules of style and layering that no other tool checks."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINES_MAX = 700
FUNCTION_LINES_MAX = 80

# Who alone may say it, and why.
RESERVED = {
    r"\bshared_memory\b": (r"mstore/shm/segment\.py",),
    r"\bos\.(fsync|fdatasync|rename|replace)\(": (r"mstore/persistence/files\.py",),
    r"\btime\.(time|time_ns|monotonic|monotonic_ns)\(": (r"mstore/clock\.py",),
    r"^import struct|^from struct": (
        r"mstore/ipc/framing\.py", r"mstore/persistence/(blocks|records|snapshot.*)\.py",
        r"mstore/shm/.*\.py", r"mstore/kernels/reference_.*\.py", r"mstore/compat/(bin_snapshot|wal)\.py",
    ),
    r"<stdatomic|__atomic_": (r"mstore/kernels/atomics\.h",),
}  # fmt: skip
MARKERS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def tracked(*suffixes: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    return [ROOT / name for name in listed if name.endswith(suffixes) and (ROOT / name).exists()]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("pattern", RESERVED)
def test_some_things_are_said_in_one_place_only(pattern: str) -> None:
    allowed = re.compile("|".join(RESERVED[pattern]))
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in tracked(".py", ".pyx", ".h")
        if relative(path).startswith("mstore/") and not allowed.fullmatch(relative(path))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line.split("#")[0])
    ]
    assert not found, "\n".join(found)


def test_no_leftover_markers() -> None:
    found = [
        f"{relative(path)}:{number}"
        for path in tracked(".py", ".pyx", ".pxd", ".h", ".md", ".toml")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if MARKERS.search(line)
    ]
    assert not found, "\n".join(found)


def test_modules_tell_one_thing() -> None:
    found = [
        f"{relative(path)}: {n} lines"
        for path in tracked(".py", ".pyx")
        if (n := len(path.read_text().splitlines())) > LINES_MAX
    ]
    assert not found, "\n".join(found)


def test_functions_fit_a_screen() -> None:
    found = []
    for path in tracked(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    found.append(f"{relative(path)}:{node.lineno}: {node.name} has {lines} lines")
    assert not found, "\n".join(found)


def test_every_module_and_public_class_says_what_it_is() -> None:
    found = []
    for path in tracked(".py"):
        text = path.read_text()
        if not text.strip() or not relative(path).startswith("mstore/"):
            continue
        tree = ast.parse(text)
        if not ast.get_docstring(tree):
            found.append(relative(path))
    assert not found, "\n".join(found)


def test_every_kernel_has_a_typed_stub() -> None:
    kernels = list(tracked(".pyx"))
    assert kernels
    missing = [relative(path) for path in kernels if not path.with_suffix(".pyi").exists()]
    assert not missing, "\n".join(missing)


def test_no_path_of_this_machine_is_in_the_project() -> None:
    # Directories that every machine has say nothing about this one: examples may name them.
    own = {ROOT, ROOT.parent, Path.home()} - {
        Path(name) for name in ("/", "/root", "/tmp", "/home", "/var/tmp")
    }
    here = [f"{one}/".encode() for one in own]
    found = [
        relative(path)
        for path in tracked(".py", ".pyx", ".md", ".toml", ".h", "")
        if path.is_file() and any(one in path.read_bytes() for one in here)
    ]
    assert not found, "\n".join(found)


def test_every_test_asserts_something() -> None:
    found = []
    for path in tracked(".py"):
        if not relative(path).startswith("tests/"):
            continue
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                body = ast.get_source_segment(text, node) or ""
                if not re.search(r"\bassert\b|raises|assert_|check_|expect", body):
                    found.append(f"{relative(path)}:{node.lineno}: {node.name}")
    assert not found, "\n".join(found)

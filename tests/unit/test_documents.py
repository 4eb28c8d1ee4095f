"""What the documents say that a program can hold them to: rendered pages, links, names of files and commands."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from mstore.cli.main import build_parser
from mstore.shm import layout

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# A path in backticks or bare, as the text names files: mstore/x/y.py, {a,b} for several.
NAMED = re.compile(r"(?<![\w/.-])((?:mstore|scripts|tests|benchmarks|docs|fuzz)/[\w./{},*-]*[\w}*])")


def documents() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in listed.stdout.split("\n") if name and (ROOT / name).exists()]


def renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("format_docs", ROOT / "scripts" / "format_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(text: str) -> set[str]:
    """Of the headings, as a forge makes them."""
    heads = re.findall(
        r"^#+ +(.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_page_of_the_segments_is_what_the_layout_says() -> None:
    text = renderer().page()
    assert (ROOT / "docs/format/segment.md").read_text() == text, "run scripts/format-docs"
    for dtype in layout._ALL:
        assert all(f"| {field} |" in text for field in dtype.names or ())


def test_the_renderer_refuses_a_field_that_has_no_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    found = renderer()
    monkeypatch.delitem(found.MEANING["chunk"], "seq")
    with pytest.raises(ValueError, match="seq"):
        found.page()


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_in_a_document_leads_somewhere(path: Path) -> None:
    broken = []
    for target in LINK.findall(path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_names_exists(path: Path) -> None:
    missing = []
    for name in NAMED.findall(path.read_text()):
        several = re.fullmatch(r"(.*)\{([^}]*)\}(.*)", name)
        names = [several[1] + part + several[3] for part in several[2].split(",")] if several else [name]
        for one in names:
            found = [ROOT / one, ROOT / f"{one}.py", ROOT / f"{one}.pyx"]
            if "*" not in one and not any(candidate.exists() for candidate in found):
                missing.append(one)
    assert not missing


def test_the_page_of_the_command_line_names_every_command() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    commands = next(
        action.choices for action in build_parser()._actions if action.dest == "command" and action.choices
    )
    assert [name for name in commands if f"mstore {name}" not in text] == []


def test_the_readme_begins_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^ {4}(scripts/\S+|pip \S+ \S+)", text, re.MULTILINE)
    assert commands[:2] == ["scripts/demo", "scripts/test"]

"""deploy/Containerfile says what the program and its build accept; no image is built here."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from mstore.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "deploy" / "Containerfile").read_text()


def words(instruction: str) -> list[str]:
    """Of the last instruction of this name, in its JSON form."""
    found: list[str] = json.loads(re.findall(rf"^.*{instruction} +(\[.*\])$", TEXT, re.MULTILINE)[-1])
    return found


def test_its_command_lines_are_ones_that_mstore_takes() -> None:
    (program,) = words("ENTRYPOINT")
    assert program == "mstore"
    assert build_parser().parse_args(words("CMD")).command == "serve"
    asked = [line for line in TEXT.splitlines() if line.startswith("HEALTHCHECK")]
    health, *rest = json.loads(re.search(r"\[.*\]", asked[0])[0])  # type: ignore[index]  # there is one
    assert (health, build_parser().parse_args(rest).command) == ("mstore", "info")


def test_both_stages_have_a_python_the_package_takes_and_the_first_has_the_compiler() -> None:
    images = re.findall(r"^FROM docker\.io/library/python:(\d+)\.(\d+)-slim", TEXT, re.MULTILINE)
    assert len(images) == 2
    assert images[0] == images[1], "what is built for one version does not run on another"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {'.'.join(images[0])}" in project["classifiers"]
    _, build, run = TEXT.split("\nFROM ")
    assert "gcc libc6-dev" in build
    assert "gcc" not in run, "the image that runs holds no compiler"


def test_memory_volume_and_patience_are_those_of_the_store() -> None:
    assert re.search(r"^# --shm-size +\S", TEXT, re.MULTILINE), "explained, and in the command above it"
    assert re.search(r"^#.*podman run .*--shm-size \d+g", TEXT, re.MULTILINE)
    (patience_s,) = re.findall(r"--stop-timeout (\d+)", TEXT.split("# --")[0])
    service = (ROOT / "deploy" / "mstore.service").read_text()
    (minutes,) = re.findall(r"^TimeoutStopSec=(\d+)min$", service, re.MULTILINE)
    assert int(patience_s) >= 60 * int(minutes), "a last snapshot has as long as under systemd"
    directory = re.search(r"MSTORE_DIR=(\S+)", TEXT)
    assert directory
    assert f"VOLUME {directory[1]}" in TEXT
    assert f"-v mstore:{directory[1]} " in TEXT
    assert "STOPSIGNAL SIGTERM" in TEXT
    assert "USER mstore" in TEXT, "not as root"


def test_it_installs_extras_that_there_are_and_what_an_archive_needs() -> None:
    (listed,) = re.findall(r"^ARG EXTRAS=(\S+)$", TEXT, re.MULTILINE)
    assert '"/src[$EXTRAS]"' in TEXT.split("\nFROM ")[1], "what is built is what is copied"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"archive", "cli", "top"} == set(listed.split(",")) <= extras.keys()
    page = (ROOT / "docs" / "operations.md").read_text()
    assert f"EXTRAS={listed}," in page, "the page builds upon the same list"

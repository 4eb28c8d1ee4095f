"""Random damage to the files of a small store: what `check` announces is what is lost, what `--repair` plans is done.

The oracle knows every sample and the block it came in. MSTORE_SEED repeats a run.

One thing no check can know: blocks at the very end of the log that nothing else names. Where the newest segment is
hurt so that its end looks like one, the samples beyond the last block told of may be missing.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mstore.persistence.files import snapshot_dir, wal_dir
from mstore.shm import layout
from mstore.workers.check import DAMAGED, SOUND, check, repair
from mstore.workers.repair import Plan
from tests.files_rig import Memory, Sample, StoreFiles, build

ROUNDS = 60
Damage = Callable[[Path, random.Random], str]


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def victims(directory: Path) -> list[Path]:
    found = [*wal_dir(directory).glob("*.wal"), *snapshot_dir(directory).iterdir()]
    return sorted(path for path in found if path.is_file())


def _used(path: Path) -> int:
    return max(1, len(path.read_bytes().rstrip(b"\0")))


def flip(directory: Path, rng: random.Random) -> str:
    path = rng.choice(victims(directory))
    text = bytearray(path.read_bytes())
    place = rng.randrange(min(len(text), _used(path)))
    text[place] ^= 1 << rng.randrange(8)
    path.write_bytes(text)
    return f"flip {path.name} at {place}"


def truncate(directory: Path, rng: random.Random) -> str:
    path = rng.choice(victims(directory))
    n_bytes = rng.randrange(_used(path))
    os.truncate(path, n_bytes)
    return f"truncate {path.name} to {n_bytes}"


def newest_segment(directory: Path) -> Path:
    return max(wal_dir(directory).glob("*.wal"))


def delete(directory: Path, rng: random.Random) -> str:
    path = rng.choice([path for path in victims(directory) if path != newest_segment(directory)])
    path.unlink()
    return f"delete {path.name}"


def swap(directory: Path, rng: random.Random) -> str:
    one, other = rng.sample([path for path in victims(directory) if path != newest_segment(directory)], 2)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return f"swap {one.name} and {other.name}"


def zero_page(directory: Path, rng: random.Random) -> str:
    path = rng.choice(victims(directory))
    text = bytearray(path.read_bytes())
    start = rng.randrange(-(-min(len(text), _used(path)) // 512)) * 512
    text[start : start + 512] = bytes(len(text[start : start + 512]))
    path.write_bytes(text)
    return f"zero {path.name} from {start}"


def leave_half_written(directory: Path, rng: random.Random) -> str:
    (snapshot_dir(directory) / f"{rng.getrandbits(64):016x}.snapshot.tmp").write_bytes(b"half")
    return "a half-written file"


def bare(directory: Path, rng: random.Random) -> str:
    """No manifest is left, and half of the other files of snapshots are hurt."""
    folder = snapshot_dir(directory)
    for path in folder.glob("*.snapshot"):
        path.unlink()
    told = ["no manifest"]
    for path in sorted(folder.iterdir()):
        text = bytearray(path.read_bytes())
        match rng.randrange(6):
            case 0:
                path.unlink()
            case 1:
                path.write_bytes(text[: rng.randrange(len(text))])
            case 2:
                text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
                path.write_bytes(text)
            case _:
                continue
        told.append(f"{path.name} is hurt")
    return ", ".join(told)


KINDS: list[Damage] = [flip, truncate, delete, swap, zero_page, leave_half_written, bare]


@pytest.fixture
def original(tmp_path: Path, seed: int) -> StoreFiles:
    return build(tmp_path / "original", random.Random(seed))


def missing(directory: Path, known: list[Sample], told: str) -> list[Sample]:
    """Samples that a start does not bring back; a value that is wrong fails at once. The start is not degraded."""
    memory = Memory()
    report = memory.recover(directory)
    assert not report.damaged, f"{told}: {report.summary()}"
    found = memory.values(known)
    right = {(s.cluster, s.name, s.tick): s.value for s in known}
    for key, value in found.items():
        assert right[key] == value, f"{told}: {key}"
    return [s for s in known if (s.cluster, s.name, s.tick) not in found]


def check_done_as_planned(
    before: dict[str, bytes], after: dict[str, bytes], plan: Plan, directory: Path, told: str
) -> None:
    """Nothing came, went or changed that no step names; what went has its copy."""
    named: dict[str, str] = {}
    for step in plan.steps:
        named[Path(step.path).relative_to(directory).as_posix()] = step.verb
    new_generation = [name for name, verb in named.items() if verb == "snapshot"]
    for name in before.keys() | after.keys():
        if name in named:
            continue
        if new_generation and name.startswith(new_generation[0].removesuffix("snapshot")):
            continue  # the files that the manifest names
        assert before.get(name) == after.get(name), f"{told}: {name} is in no step"
    kept = {Path(name).name: after[name] for name, verb in named.items() if verb == "copy"}
    for name, verb in named.items():
        if verb in ("remove", "rewrite") and not name.endswith(".tmp"):
            assert kept[Path(name).name] == before[name], f"{told}: {name} went without a copy"
        if verb == "remove":
            assert name not in after, f"{told}: {name} is still there"


def check_announced(
    plain: dict[str, Any], lost: list[Sample], files: StoreFiles, newest: int, told: str
) -> None:
    """What is missing is what was announced, and nothing was announced that is there."""
    announced = plain["lost"]
    beyond = {s for s in lost if s.seq > plain["last_block"]}
    if beyond:
        assert newest_segment(files.directory).name in told, told
    lost = [s for s in lost if s not in beyond]
    blocks = {seq for first, last in announced["blocks"] for seq in range(first, last + 1)}
    cut = plain["cut_from"] or 1 << 63
    gone = [s for s in lost if s.seq in blocks or s.seq >= cut]
    others = [s for s in lost if s.seq not in blocks and s.seq < cut]
    # Sound blocks whose series lost its definition; the same number was told. A block that is refused for what was
    # lost before it is named: what it held is lost from some byte on, and before that counted like all others.
    refused = set(announced["refused_blocks"])
    elsewhere = [s for s in others if s.seq not in refused]
    n_chunks = announced["chunks_at_most"]
    if n_chunks is not None:
        n_most = announced["orphaned_samples"] + n_chunks * layout.CHUNK_SLOTS
        assert len(elsewhere) <= n_most, f"{told}: {len(elsewhere)} lost, announced at most {n_most}"
    # Where both generations are hurt the bound is that of each file by itself.
    hurt = {fault["generation"] for fault in plain["faults"] if fault["kind"] == "snapshot"}
    if n_chunks == 0 and len(hurt) <= 1:
        assert announced["orphaned_samples"] <= len(others), told
        behind = {s for s in files.known if (s.seq in blocks and s.seq > newest) or s.seq >= cut} - beyond
        assert behind <= set(lost), f"{told}: announced as lost, and there"
    if not gone and not others:
        return
    spoken = blocks or plain["cut_from"] or n_chunks != 0 or announced["refused_blocks"]
    assert spoken or announced["orphaned_samples"], f"{told}: lost without a word"
    if plain["status"] == SOUND:
        assert all(s.seq >= cut for s in lost), told


def test_what_check_announces_is_lost_and_what_repair_plans_is_done(
    original: StoreFiles, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    statuses: dict[int, int] = {SOUND: 0, DAMAGED: 0}
    verbs: dict[str, int] = {}
    n_lost = 0
    for number in range(ROUNDS):
        directory = tmp_path / f"{number}"
        shutil.copytree(original.directory, directory)
        told = f"seed {seed}, round {number}: " + "; ".join(
            rng.choice(KINDS)(directory, rng) for _ in range(rng.choice((1, 1, 1, 2)))
        )
        damaged = contents(directory)
        newest = max([0, *(int(path.name[:16], 16) for path in snapshot_dir(directory).glob("*.snapshot"))])
        plain = check(directory).to_plain()
        assert contents(directory) == damaged, f"{told}: checking changed something"
        found, plan, done = repair(directory, lambda *_: True)
        assert found.to_plain() == plain, told
        assert done == bool(plan.steps), told
        check_done_as_planned(damaged, contents(directory), plan, directory, told)
        again = check(directory)
        assert again.status == SOUND, f"{told}: {again.lines()}"
        assert not again.survey.leftovers, told
        lost = missing(directory, original.known, told)
        check_announced(plain, lost, original, newest, told)
        statuses[plain["status"]] += 1
        n_lost += bool(lost)
        for step in plan.steps:
            verbs[step.verb] = verbs.get(step.verb, 0) + 1
        shutil.rmtree(directory)
    print(f"{ROUNDS} rounds: {statuses}, {n_lost} with a loss, steps {verbs}")
    assert statuses[DAMAGED] > ROUNDS // 3
    assert {"copy", "remove", "snapshot"} <= set(verbs)

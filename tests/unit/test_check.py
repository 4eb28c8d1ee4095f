"""What `mstore check` says of damaged files, and what `--repair` asks and does."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mstore.cli.main import main
from mstore.persistence.blocks import encode_header, parse, parse_segment_header
from mstore.persistence.files import Files, snapshot_dir, wal_dir
from mstore.persistence.snapshot import list_snapshots
from mstore.persistence.wal import Wal
from mstore.shm import layout
from mstore.times import utc_text
from mstore.workers.check import DAMAGED, SOUND, Result, check, repair
from mstore.workers.repair import Plan
from tests.files_rig import START_S, STEP_S, Memory, StoreFiles, build


@pytest.fixture
def store(tmp_path: Path, seed: int) -> StoreFiles:
    return build(tmp_path / "store", random.Random(seed), n_blocks=30)


def hurt_block_behind_the_snapshots(store: StoreFiles) -> tuple[int, Path, int]:
    """Flip a bit of a value in a block that no snapshot holds: (its sequence, file, offset of the block)."""
    newest = list_snapshots(Files(), snapshot_dir(store.directory))[0][0]
    wanted = min(s.seq for s in store.known if s.seq > newest + 3)
    for path in sorted(wal_dir(store.directory).glob("*.wal")):
        text = bytearray(path.read_bytes())
        header = parse_segment_header(memoryview(text))
        assert not isinstance(header, str)
        offset = 4096
        while not isinstance(block := parse(memoryview(bytes(text)), offset, header.segment_id), str):
            if block.seq == wanted:
                text[block.end - 9] ^= 1
                path.write_bytes(text)
                return wanted, path, offset
            offset = block.end
    raise AssertionError("no such block")


def test_a_damaged_block_is_told_with_its_place_samples_series_cluster_and_time(store: StoreFiles) -> None:
    seq, path, offset = hurt_block_behind_the_snapshots(store)
    in_it = [s for s in store.known if s.seq == seq]
    found = check(store.directory)
    (fault,) = found.survey.faults
    assert (found.status, fault.path, fault.offset) == (DAMAGED, str(path), offset)
    named = ", ".join(f"h {s.name}" for s in in_it[:3])
    assert fault.lost == (
        f"block {seq}, as the damaged bytes still read: {len(in_it)} samples of {len(in_it)} series of"
        f" {in_it[0].cluster} ({named}, ...) at {utc_text(START_S + in_it[0].tick * STEP_S)}"
    )


def test_a_newest_segment_that_was_cut_short_is_no_torn_end(store: StoreFiles) -> None:
    path = max(wal_dir(store.directory).glob("*.wal"))
    whole = path.stat().st_size
    os.truncate(path, 4096)
    found = check(store.directory)
    (fault,) = found.survey.faults
    assert (found.status, fault.path) == (DAMAGED, str(path))
    assert fault.reason == f"the file was cut to 4096 bytes, it had {whole}"
    assert fault.lost.endswith("and what may have followed it")
    assert not any("torn" in note for note in found.survey.notes)
    _, plan, done = repair(store.directory, lambda _found, _plan: True)
    assert done
    assert plan.steps
    assert check(store.directory).status == SOUND


def test_a_damaged_block_that_a_snapshot_holds_costs_nothing(store: StoreFiles) -> None:
    (newest, _), (older, _) = list_snapshots(Files(), snapshot_dir(store.directory))
    segments = sorted(wal_dir(store.directory).glob("*.wal"))
    number, path = max((int(p.stem, 16), p) for p in segments if older < int(p.stem, 16) < newest - 5)
    text = bytearray(path.read_bytes())
    text[4096 + 100] ^= 1
    path.write_bytes(text)
    found = check(store.directory)
    (fault,) = found.survey.faults
    assert fault.harmless
    assert fault.lost == f"nothing: a snapshot holds block {number}"
    repair(store.directory, lambda *_: True)
    assert check(store.directory).status == SOUND
    memory = Memory()
    memory.recover(store.directory)
    assert len(memory.values(store.known)) == len(store.known)


def all_values(store: StoreFiles) -> dict[tuple[str, str, int], float]:
    return {(sample.cluster, sample.name, sample.tick): sample.value for sample in store.known}


def test_generations_without_manifests_are_looked_at_and_cost_nothing(store: StoreFiles) -> None:
    folder = snapshot_dir(store.directory)
    (newest, path), (older, older_path) = list_snapshots(Files(), folder)
    older_path.unlink()
    found = check(store.directory)
    assert found.status == SOUND, "a snapshot that was ended half way leaves such files"
    (note,) = (note for note in found.survey.notes if "without its manifest" in note)
    assert f"block {older}" in note
    assert "a start does not use these files" in note
    path.unlink()
    found = check(store.directory)
    faults = [one for one in found.survey.faults if one.kind == "snapshot"]
    assert {(one.path, one.generation) for one in faults} == {(str(path), newest), (str(older_path), older)}
    assert all(one.harmless for one in faults)
    assert not any("without its manifest" in note for note in found.survey.notes)
    assert repair(store.directory, lambda *_: True)[2]
    assert check(store.directory).status == SOUND
    memory = Memory()
    memory.recover(store.directory)
    assert memory.values(store.known) == all_values(store)


def test_without_any_manifest_and_whole_definitions_the_sound_blocks_are_used(
    tmp_path: Path, seed: int
) -> None:
    """Check and start say the same: whether a file is missing nobody can tell."""
    store = build(tmp_path / "longer", random.Random(seed), n_blocks=90)
    folder = snapshot_dir(store.directory)
    for path in folder.glob("*.snapshot"):
        path.unlink()
    for path in folder.glob("*.definitions"):
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    found = check(store.directory)
    assert found.status == DAMAGED
    assert found.survey.lost_chunks is None
    memory = Memory()
    report = memory.recover(store.directory)
    assert memory.values(store.known) == all_values(store)
    told = {fault.path for fault in found.survey.faults if not fault.harmless}
    assert told == {one.path for one in report.snapshots_refused if one.n_lost}


def test_files_without_a_manifest_are_used_only_where_the_log_has_a_hole(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wal, "retire", lambda *_: None)
    store = build(tmp_path / "whole", random.Random(seed), n_blocks=90)
    folder = snapshot_dir(store.directory)
    generations = list_snapshots(Files(), folder)
    for _, path in generations:
        path.unlink()
    found = check(store.directory)
    assert (found.status, found.survey.faults) == (SOUND, [])
    assert sum("a start does not use these files" in note for note in found.survey.notes) == 2
    memory = Memory()
    report = memory.recover(store.directory)
    assert (report.snapshot_seq, report.snapshots_refused) == (0, [])
    assert memory.values(store.known) == all_values(store)
    segments = sorted(wal_dir(store.directory).glob("*.wal"))
    before_all = [path for path in segments if int(path.stem, 16) < generations[-1][0] - 60]
    before_all[len(before_all) // 2].unlink()
    found = check(store.directory)
    assert found.status == DAMAGED
    assert all(fault.harmless for fault in found.survey.faults)
    assert not any("a start does not use" in note for note in found.survey.notes)
    memory = Memory()
    report = memory.recover(store.directory)
    assert report.snapshot_seq == generations[0][0]
    assert memory.values(store.known) == all_values(store)
    assert repair(store.directory, lambda *_: True)[2]
    assert check(store.directory).status == SOUND
    memory = Memory()
    memory.recover(store.directory)
    assert memory.values(store.known) == all_values(store)


def test_damage_in_a_file_that_no_manifest_names_is_found(store: StoreFiles) -> None:
    folder = snapshot_dir(store.directory)
    older, path = list_snapshots(Files(), folder)[1]
    path.unlink()
    chunks = min(folder.glob(f"{older:016x}.*.chunks"))
    text = bytearray(chunks.read_bytes())
    text[200] ^= 1
    chunks.write_bytes(text)
    (fault,) = check(store.directory).survey.faults
    assert (fault.path, fault.harmless) == (str(chunks), True)


def test_what_a_recycled_file_has_kept_is_not_taken_for_a_lost_block(tmp_path: Path, seed: int) -> None:
    """The room behind the last block of a segment is where a missing segment's blocks are looked for."""
    store = build(tmp_path / "longer", random.Random(seed), n_blocks=150)
    newest = list_snapshots(Files(), snapshot_dir(store.directory))[0][0]
    segments = sorted(wal_dir(store.directory).glob("*.wal"))
    before, lost = next(pair for pair in pairwise(segments) if int(pair[1].stem, 16) > newest + 1)
    lost.unlink()
    text = before.read_bytes()
    used = len(text.rstrip(b"\0"))
    used += -used % 8
    seq = store.known[0].seq
    payload = a_row()
    stale = encode_header(7, seq, 0, 0, 0, seq - 1, payload) + payload
    before.write_bytes(text[:used] + stale + text[used + len(stale) :])
    fault, *others = (one for one in check(store.directory).survey.faults if not one.harmless)
    assert all("because of what was lost before" in str(one) for one in others), (
        "definitions that follow lost ones"
    )
    assert fault.lost.startswith("block")
    assert "still read" not in fault.lost


def a_row() -> bytes:
    head = np.zeros(1, layout.RUN)
    head["type"], head["vtype"], head["count"], head["t"] = layout.REC_ROW, layout.TYPE_F32, 4, START_S
    return head.tobytes() + np.ones(4, np.float32).tobytes()


def test_a_plan_is_told_in_a_few_lines_however_many_files_there_are(store: StoreFiles) -> None:
    hurt_block_behind_the_snapshots(store)
    _, plan, _ = repair(store.directory, lambda *_: False)
    assert len(plan.steps) > 20
    told = plan.lines()
    assert len(told) < 8
    n_copied = sum(step.verb == "copy" for step in plan.steps)
    assert told[0].startswith(f"keep {n_copied} files in {store.directory}")


def test_times_and_series_are_told_as_people_read_them(store: StoreFiles) -> None:
    hurt_block_behind_the_snapshots(store)
    for path in snapshot_dir(store.directory).glob("*.chunks"):
        path.write_bytes(path.read_bytes()[:-200])
    told = "\n".join(check(store.directory).lines())
    assert not re.search(r"slots|\b1[67]\d{8}\b", told), told
    assert "2023-11-14 22:" in told


def test_two_segments_under_each_others_names_are_damage_and_not_a_silent_loss(
    tmp_path: Path, seed: int
) -> None:
    store = build(tmp_path / "longer", random.Random(seed), n_blocks=150)
    newest = list_snapshots(Files(), snapshot_dir(store.directory))[0][0]
    behind = [p for p in sorted(wal_dir(store.directory).glob("*.wal")) if int(p.stem, 16) > newest + 1]
    one, other = behind[-2:]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert check(store.directory).survey.lost_blocks
    memory = Memory()
    assert memory.recover(store.directory).damaged


def test_a_torn_end_is_no_fault_and_repair_cuts_it(store: StoreFiles) -> None:
    path = max(wal_dir(store.directory).glob("*.wal"))
    text = bytearray(path.read_bytes())
    used = len(bytes(text).rstrip(b"\0"))
    text[used - 8] ^= 0xFF  # the header of the marker, which is the last block
    path.write_bytes(text)
    found = check(store.directory)
    assert found.status == SOUND
    assert any("a torn end" in note for note in found.survey.notes)
    _, plan, done = repair(store.directory, lambda *_: True)
    assert done
    # The marker's segment is written anew without it, or goes when it held nothing else.
    assert [step.verb for step in plan.steps] in (["copy", "rewrite"], ["copy", "remove"])
    assert "a torn end" not in "".join(check(store.directory).survey.notes)


def test_repair_changes_nothing_without_consent(
    store: StoreFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hurt_block_behind_the_snapshots(store)
    before = {path: path.read_bytes() for path in store.directory.rglob("*") if path.is_file()}
    with open("/dev/null") as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert main(["check", "--repair", "--dir", str(store.directory)]) == DAMAGED
    told = capsys.readouterr()
    assert "needs --yes" in told.err
    assert "write a new snapshot" in told.out
    after = {p: p.read_bytes() for p in store.directory.rglob("*") if p.is_file() and p.name != "lock"}
    assert after == {path: text for path, text in before.items() if path.name != "lock"}


def test_repair_tells_before_plan_and_after_as_json(
    store: StoreFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    seq, _, _ = hurt_block_behind_the_snapshots(store)
    assert main(["check", "--repair", "--yes", "--json", "--dir", str(store.directory)]) == SOUND
    told = json.loads(capsys.readouterr().out)
    assert told["before"]["lost"]["blocks"] == [[seq, seq]]
    assert {step["verb"] for step in told["plan"]} == {"copy", "snapshot", "remove"}
    assert (told["done"], told["after"]["status"], told["after"]["faults"]) == (True, SOUND, [])


def test_yes_without_repair_is_wrong_usage(store: StoreFiles) -> None:
    assert main(["check", "--yes", "--dir", str(store.directory)]) == 2


def test_what_cannot_be_read_cannot_be_checked(store: StoreFiles) -> None:
    path = max(wal_dir(store.directory).glob("*.wal"))
    path.unlink()
    path.mkdir()
    assert main(["check", "--dir", str(store.directory)]) == 2


def test_a_directory_that_may_not_be_looked_into_is_not_called_damaged(
    store: StoreFiles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "DIR")

    monkeypatch.setattr(Path, "is_dir", refused)
    assert main(["check", "--dir", str(store.directory)]) == 2
    assert "Permission denied" in capsys.readouterr().err
    assert main(["check", "--repair", "--yes", "--dir", str(store.directory)]) == 2


def test_repair_as_json_asks_nothing_and_changes_nothing_without_yes(
    store: StoreFiles, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hurt_block_behind_the_snapshots(store)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert main(["check", "--repair", "--json", "--dir", str(store.directory)]) == DAMAGED
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert (document["done"], document["before"]["status"]) == (False, DAMAGED)
    assert document["plan"]
    assert "needs --yes" in told.err


def test_a_repair_that_dies_anywhere_is_ended_by_the_next(store: StoreFiles, tmp_path: Path) -> None:
    seq, _, _ = hurt_block_behind_the_snapshots(store)
    expected = {(s.cluster, s.name, s.tick): s.value for s in store.known if s.seq != seq}
    n_done = 0
    while True:
        directory = tmp_path / f"{n_done}"
        shutil.copytree(store.directory, directory)
        done = die_after(directory, n_done)
        memory = Memory()
        copy = tmp_path / "copy"
        shutil.copytree(directory, copy)
        memory.recover(copy)
        assert memory.values(store.known) == expected, n_done
        repair(directory, lambda *_: True)
        assert check(directory).status == SOUND, n_done
        memory = Memory()
        assert not memory.recover(directory).damaged
        assert memory.values(store.known) == expected, n_done
        shutil.rmtree(copy)
        shutil.rmtree(directory)
        if done:
            break
        n_done += 1
    assert n_done > 5


class Died(Exception):
    pass


def die_after(directory: Path, n_steps: int) -> bool:
    """Carry out the first n_steps steps of a repair; True when those were all."""

    def agree(_found: Result, plan: Plan) -> bool:
        for step in plan.steps[:n_steps]:
            step.do()
        if n_steps < len(plan.steps):
            raise Died
        return False

    try:
        repair(directory, agree)
    except Died:
        return False
    return True

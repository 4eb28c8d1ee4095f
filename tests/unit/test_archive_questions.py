"""Every kind of question to a Reader with an archive: answered as before anything left memory, or it is said what lacks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mstore.archive import names
from mstore.archive.begun import note_begun, refuse_if_gone
from mstore.archive.bounds import keep_within
from mstore.archive.overlay import build
from mstore.archive.questions import ArchivedQuestions, ArchiveReader
from mstore.archive.reading import ArchiveFiles
from mstore.archive.switch import Setup, write_setup
from mstore.config import Config
from mstore.errors import ArchiveError, LimitExceeded, StorageError
from mstore.frames import Series
from mstore.jobs.request import LoadRequest
from mstore.limits import ARCHIVE_SAMPLES_MAX
from mstore.persistence.files import Files
from mstore.query import Request
from mstore.query.budget import Budget, finished
from mstore.workers.archive import take
from tests import archive_rig
from tests.archive_rig import SPAN_S, Filled
from tests.query_rig import T0, Store, one, several

END = T0 + SPAN_S
FAR_S = 1 << 40


class Asked(ArchivedQuestions):
    """Over the segments of a store in this process."""

    def __init__(self, store: Store, store_dir: Path, left: Callable[[], int]) -> None:
        super().__init__(store.directory_map.segment, store.samples_map.segment, now_s=lambda: END)
        self.archive = ArchiveReader(store_dir, self, left, Config, lambda: END)


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-{os.getpid()}-{archive_rig.name()}")
    yield made
    made.close()


@pytest.fixture
def filled(store: Store, tmp_path: Path, seed: int) -> Filled:
    """Three hosts with counters and gauges of two days."""
    rng = np.random.default_rng(seed)
    for host in ("f1", "f2", "f10"):
        for thread in "012":
            values = np.where(rng.random(3000) < 0.1, np.nan, rng.normal(size=3000))
            store.put(store.open("flops", host, "hwthread", thread), T0, values.tolist())
        store.put(store.open("load", host), T0, rng.normal(size=3000).tolist())
        counts = np.cumsum(rng.integers(0, 1 << 40, 18_000))
        for at in range(0, len(counts), 5000):
            store.put(store.open("ops", host), T0 + 10 * at, counts[at : at + 5000].tolist(), 10)
    (tmp_path / "store" / "run").mkdir(parents=True)
    write_setup(Files(), tmp_path / "store", Setup(tmp_path / "archive", True))
    return Filled(store, tmp_path / "archive")


def answers(reader: ArchivedQuestions) -> dict[str, Any]:
    """One of each kind, all across what is freed and what stays; comparable."""
    start, end = T0 + 7200, T0 + 2900 * 60

    def query(*args: Any, **kwargs: Any) -> Any:
        return archive_rig.plain(reader.query("fritz", *args, start, end, **kwargs))

    batch = {
        "cluster": "fritz", "from": start, "to": end, "for-all-nodes": ["load"],
        "queries": [{"metric": "flops", "host": "f2", "type": "hwthread", "type-ids": ["0", "2"], "resolution": 600}],
    }  # fmt: skip
    nodes = LoadRequest.of_nodes("fritz", start, end, END, None, ["load", "flops"], ("node", "hwthread"))
    loaded = finished(reader.load_work(nodes, Budget()))
    table = reader.stats("fritz/*", "flops", start, end, [50.0])
    top = reader.top("fritz/*/*", "flops", start, end, 4, per="series")
    return {
        "query": query("f1", "load"),
        "aggregate": query("f2", "flops", aggregate=True, missing="propagate"),
        "rate": query("f10", "ops", function="rate"),
        "average": query("f1", "load", function="moving_average", window=7000),
        "extremes": query("f1", "load", resolution=600, algo="lttb"),
        "many": [
            archive_rig.plain(found)
            for found in reader.query_many(
                [Request("fritz", host, "load", start, end) for host in ("f1", "f2", "nobody")]
            )
        ],
        "fetch": reader.fetch(batch).to_json(),
        "load": (loaded.labels.tobytes(), loaded.packed.entries.tobytes(), bytes(loaded.packed.values)),
        "stats": table.to_wire(),
        "top": top.to_wire(),
        "series": archive_rig.plain(reader.series("fritz/f1*", "flops", start, end, True)),
        "series of a function": archive_rig.plain(
            reader.series("*/f1,f2", "ops", start, end, function="rate", resolution=60)
        ),
    }


def leave(filled: Filled, before_s: int) -> None:
    """What is older is archived and freed."""
    assert not filled.archive(before_s, freeing=True).failed
    assert filled.free(before_s)


def test_every_kind_of_question_is_answered_as_before_it_left(filled: Filled, tmp_path: Path) -> None:
    left = 0
    reader = Asked(filled.store, tmp_path / "store", lambda: left)
    before = answers(reader)
    leave(filled, T0 + 2000 * 60)
    without = answers(reader)
    left = 1
    after = answers(reader)
    for name, expected in before.items():
        assert without[name] != expected, f"{name}: nothing of it has left, the test shows nothing"
        assert after[name] == expected, name


@pytest.mark.parametrize("step", ["metrics", "samples"])
def test_a_day_that_is_deleted_while_it_is_read_is_as_if_it_had_gone_before(
    filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """max_bytes removes the oldest day between the look at the manifest and the look at its files."""
    leave(filled, T0 + 2900 * 60)
    whole = getattr(ArchiveFiles, step)
    deleted: list[int] = []

    def late(self: ArchiveFiles, *args: Any) -> Any:
        if not deleted:
            deleted.append(keep_within(Files(), filled.root, 1))
        return whole(self, *args)

    def ask() -> Series:
        reader = Asked(filled.store, tmp_path / "store", lambda: 1)
        return one(reader.query("fritz", "f1", "load", T0, T0 + 2900 * 60))

    n_before = ask().stats.count
    with monkeypatch.context() as patched:
        patched.setattr(ArchiveFiles, step, late)
        during = ask()
    assert deleted[0] >= 1
    assert archive_rig.plain(during) == archive_rig.plain(ask())
    assert 0 < during.stats.count < n_before


def test_an_archive_that_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    files, root = Files(), tmp_path / "mnt" / "archive"
    refuse_if_gone(files, tmp_path, root)  # there never was one
    names.manifest_dir(root).mkdir(parents=True)
    note_begun(files, tmp_path, root)
    refuse_if_gone(files, tmp_path, root)
    (tmp_path / "mnt").rename(tmp_path / "unmounted")
    with pytest.raises(ArchiveError, match="is its file system mounted"):
        refuse_if_gone(files, tmp_path, root)
    refuse_if_gone(files, tmp_path, tmp_path / "another")
    (tmp_path / "archives.json").write_text("{")
    with pytest.raises(StorageError, match="no list of directories"):
        refuse_if_gone(files, tmp_path, root)
    (tmp_path / "archives.json").unlink()
    refuse_if_gone(files, tmp_path, root)


def test_the_helper_begins_no_archive_anew(tmp_path: Path) -> None:
    """The look is its own: on a file system that hangs it would hold up whoever looks."""
    root = tmp_path / "archive"
    (tmp_path / "archives.json").write_text(json.dumps([str(root)]))
    job = {"store_dir": str(tmp_path), "root": str(root), "lock_inode": None}
    with pytest.raises(ArchiveError, match="is its file system mounted"):
        take(job, lambda _: None)
    assert not root.exists()


def test_a_pass_counts_also_where_it_cannot_be_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Files, path: Path, _content: bytes) -> None:
        raise StorageError(f"{path}: no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Files, "replace", full)
        note_begun(Files(), tmp_path, tmp_path / "archive")
    assert "no space left on device" in caplog.text
    note_begun(Files(), tmp_path, tmp_path / "archive")
    assert json.loads((tmp_path / "archives.json").read_text()) == [str(tmp_path / "archive")]


@pytest.mark.parametrize("past_retention", [False, True])
def test_an_archive_that_is_gone_is_said_by_the_answers_that_need_it(
    filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, past_retention: bool
) -> None:
    left = 0 if past_retention else 1
    leave(filled, T0 + 2000 * 60)
    note_begun(Files(), tmp_path / "store", filled.root)
    filled.root.rename(tmp_path / "unmounted")
    reader = Asked(filled.store, tmp_path / "store", lambda: left)
    if past_retention:
        monkeypatch.setattr(reader.archive.switch, "_ask_shortest_s", lambda: 3600)
    answer = one(reader.query("fritz", "f1", "load", T0, END))
    assert f"part of the archive is missing: there is no archive at {filled.root}" in answer.why
    assert answer.valid.any()
    loaded = finished(
        reader.load_work(LoadRequest.of_nodes("fritz", T0, END, END, ["f1"], ["load"]), Budget())
    )
    assert ["is its file system mounted" in str(error) for error in loaded.errors()] == [True]
    with pytest.raises(ArchiveError, match="part of the archive is missing"):
        reader.stats("fritz/f1", "load", T0, END)
    (tmp_path / "store" / "archives.json").unlink()  # as if there had never been one
    again = Asked(filled.store, tmp_path / "store", lambda: left)
    assert "archive" not in one(again.query("fritz", "f1", "load", T0, END)).why


def test_memory_alone_is_asked_where_that_is_wanted(filled: Filled, tmp_path: Path) -> None:
    reader = Asked(filled.store, tmp_path / "store", lambda: 1)
    leave(filled, T0 + 2000 * 60)
    asked = Request("fritz", "f1", "load", T0, T0 + 600)
    near = Request("fritz", "f1", "load", T0, T0 + 600, archive=False)
    both, alone = reader.query_many([asked, near])
    assert (one(both).valid.all(), one(alone).valid.any()) == (True, False)
    assert not one(reader.query("fritz", "f1", "load", T0, T0 + 600, archive=False)).valid.any()
    batch = {"cluster": "fritz", "from": T0, "to": T0 + 600, "queries": [{"metric": "load", "host": "f1"}]}
    assert not np.isfinite(reader.fetch({**batch, "archive": False})[0][0].values).any()
    assert np.isfinite(reader.fetch(batch)[0][0].values).all()


def test_what_of_the_archive_is_missing_is_said_by_every_kind_of_answer(
    filled: Filled, tmp_path: Path
) -> None:
    reader = Asked(filled.store, tmp_path / "store", lambda: 1)
    leave(filled, T0 + 2000 * 60)
    damaged = sorted(filled.root.glob("cluster=*/*/*.parquet"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    where = str(damaged)
    answer = one(reader.query("fritz", "f1", "load", T0, END))
    assert where in answer.why
    assert answer.valid.any()
    listed = several(reader.query("fritz", "f1", "flops", T0, END, type="hwthread"))
    assert [where in series.why for series in listed] == [True] * 3
    loaded = finished(
        reader.load_work(LoadRequest.of_nodes("fritz", T0, END, END, ["f1"], ["load"]), Budget())
    )
    assert [where in str(error) for error in loaded.errors()] == [True]
    series = reader.series("fritz/f1", "load", T0, END, True)
    assert isinstance(series, Series)
    assert where in series.why
    batch = {"cluster": "fritz", "from": T0, "to": END, "queries": [{"metric": "load", "host": "f1"}]}
    for ask in (
        lambda: reader.fetch(batch),
        lambda: reader.stats("fritz/f1", "load", T0, END),
        lambda: reader.top("fritz/f1", "load", T0, END),
    ):
        with pytest.raises(ArchiveError, match="part of the archive is missing"):
            ask()


def test_hosts_that_are_gone_from_memory_are_found_by_their_names_and_by_patterns(
    filled: Filled, tmp_path: Path
) -> None:
    left = 0
    reader = Asked(filled.store, tmp_path / "store", lambda: left)
    before = reader.stats("fritz/*", "load", T0, END).to_wire()
    assert not filled.archive(FAR_S, freeing=True).failed
    left = 1
    for slot in range(filled.store.writer.counts()["n_series"]):
        filled.store.samples.free_series(slot)
    assert reader.stats("fritz/*", "load", T0, END).to_wire() == before


def test_a_store_without_an_archive_asks_memory(filled: Filled, tmp_path: Path) -> None:
    reader = Asked(filled.store, tmp_path / "another", lambda: 1)
    assert not reader.archive.switch.reads
    assert one(reader.query("fritz", "f1", "load", T0, T0 + 600)).valid.all()


def test_more_samples_than_a_question_may_read_are_refused_by_every_kind_and_by_none_of_memory(
    filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit stands in for 50 million: three hosts have 9,000 samples of flops each in each of three threads."""
    leave(filled, T0 + 2 * 86_400)
    assert build.__kwdefaults__["limit"] == ARCHIVE_SAMPLES_MAX
    monkeypatch.setitem(build.__kwdefaults__, "limit", 2000)
    reader = Asked(filled.store, tmp_path / "store", lambda: 1)
    span = T0, T0 + 2900 * 60
    batch = {
        "cluster": "fritz", "from": span[0], "to": span[1],
        "queries": [{"metric": "load", "host": "f1"}],
    }  # fmt: skip
    nodes = LoadRequest.of_nodes("fritz", *span, END, None, ["load"], ("node",))
    for ask in (
        lambda: reader.query("fritz", "f1", "load", *span),
        lambda: reader.query_many([Request("fritz", "f1", "load", *span)]),
        lambda: reader.fetch(batch),
        lambda: finished(reader.load_work(nodes, Budget())),
        lambda: reader.stats("fritz/*", "load", *span),
        lambda: reader.top("fritz/*", "load", *span),
        lambda: reader.series("fritz/*", "load", *span),
    ):
        with pytest.raises(LimitExceeded, match=r"2,?000"):
            ask()
    assert one(reader.query("fritz", "f1", "load", *span, archive=False)).valid.any()
    assert one(reader.query("fritz", "f1", "load", T0, T0 + 600)).valid.all(), "a part of it fits"

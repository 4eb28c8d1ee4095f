"""The selecting kernels over a real directory: natural order, names, series below, labels; and over damage."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore.hostlists import natural_key
from mstore.kernels import _gather, _select
from mstore.query.gather import checked
from tests.query_rig import Store

NO_LEVEL = _select.NO_LEVEL
LIMIT = 1_000_000


def of(*levels: int) -> np.ndarray:
    return np.array(levels, np.uint32)


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store(f"mstore-test-select-{os.getpid()}")
    yield made
    made.close()


def level(store: Store, *parts: str) -> int:
    found = store.reader.directory.find_path(*parts)
    assert found >= 0, parts
    return found


@given(st.lists(st.text(alphabet="a0819é-", min_size=1, max_size=8), max_size=12))
def test_natural_order_is_that_of_names_everywhere_else(names: list[str]) -> None:
    ordered = _select.natural_order([name.encode() for name in names])
    assert [name.decode() for name in ordered] == sorted(names, key=natural_key)


@pytest.mark.parametrize("order", ["rising", "falling", "any"])
def test_children_come_in_natural_order_however_they_were_made(store: Store, order: str) -> None:
    names = [str(i) for i in range(40)]
    made = names if order == "rising" else names[::-1]
    if order == "any":
        random.Random(1).shuffle(made)
    for name in made:
        store.open("load", "f1", "core", name)
        store.open("load", "f2", "core", name)
    parents = of(level(store, "fritz", "f1"), NO_LEVEL, level(store, "fritz", "f2"))
    ids, bounds = checked(_select.children(store.reader.gatherer, parents, LIMIT))
    assert bounds.tolist() == [0, 40, 40, 80]
    found = checked(_select.names(store.reader.gatherer, ids)).decode().split("\n")[:-1]
    assert found == [f"core{name}" for name in names] * 2
    assert _select.children(store.reader.gatherer, parents, 79) == _gather.LIMIT
    assert _select.children(store.reader.gatherer, of(10**6), LIMIT) == _gather.GONE


def test_a_name_is_that_of_every_level_it_may_be_taken_apart_to(store: Store) -> None:
    for type_, type_id in (("core1", "2"), ("core", "12"), ("", "core12"), ("core12", ""), ("core", "1")):
        store.open("load", "f1", type_, type_id)
    host = level(store, "fritz", "f1")
    ids, places, names = checked(
        _select.named(
            store.reader.gatherer, of(host, NO_LEVEL, host), [b"core12", b"nope", b"core1"], True, LIMIT
        )
    )
    one = {level(store, "fritz", "f1", *parts) for parts in (("core1", "2"), ("core", "12"), ("", "core12"))}
    assert {*ids[:4].tolist()} >= one
    assert places.tolist() == [0] * 6 + [1] + [2] * 6
    assert names.tolist() == [0, 0, 0, 0, 1, 2, NO_LEVEL, 0, 0, 0, 0, 1, 2]
    assert [i for i, found in enumerate(ids.tolist()) if found == NO_LEVEL] == [4, 6, 11]
    ids, _, names = checked(_select.named(store.reader.gatherer, of(host), [b"nope", b"core1"], False, LIMIT))
    assert (len(ids), names.tolist()) == (1, [1])
    assert _select.named(store.reader.gatherer, of(host), [b"core12"], False, 3) == _gather.LIMIT


def test_series_of_many_levels_are_those_of_each_alone(store: Store) -> None:
    """Levels that hold the metric, that stand for what is below them, that have none, and that are not there."""
    rng = random.Random(2)
    for host in range(9):
        for core in rng.sample(range(100), rng.randrange(80)):
            store.open("load", f"f{host}", "core", str(core))
        if host % 3 == 0:
            store.open("load", f"f{host}")
        if host % 3 == 1:
            store.open("load", f"f{host}", "core", "7", "part", "1")
        store.open("clock", f"f{host}")
    gatherer, directory = store.reader.gatherer, store.reader.directory
    metrics = [directory.find_metric(level(store, "fritz"), name) for name in (b"load", b"clock")]
    levels = [level(store, "fritz"), *(level(store, "fritz", f"f{host}") for host in range(9)), NO_LEVEL]
    levels += checked(_select.children(gatherer, of(levels[1]), LIMIT))[0].tolist()
    pairs = [(one, metric) for one in levels for metric in metrics]
    rng.shuffle(pairs)
    asked = np.array(pairs, np.uint32)
    columns = np.ascontiguousarray(asked[:, 0]), np.ascontiguousarray(asked[:, 1])
    refs, bounds = checked(_select.collect(gatherer, *columns, LIMIT))
    for i, (one, metric) in enumerate(pairs):
        want = [] if one == NO_LEVEL else checked(gatherer.collect([one], metric)).tolist()
        assert refs[bounds[i] : bounds[i + 1]].tolist() == want
    assert _select.collect(gatherer, *columns, len(refs) - 1) == _gather.LIMIT
    with pytest.raises(ValueError, match="metrics for"):
        _select.collect(gatherer, columns[0], columns[1][:3], LIMIT)


def test_labels_have_every_part_of_a_path(store: Store) -> None:
    store.open("load", "f1", "socket", "0", "part", "a\\b")
    store.open("load", "f2", "", "é")
    paths = [
        ("fritz",),
        ("fritz", "f1"),
        ("fritz", "f1", "socket", "0", "part", "a\\b"),
        ("fritz", "f2", "", "é"),
    ]
    levels = of(*(level(store, *path) for path in paths), NO_LEVEL, 0)
    text = checked(_select.labels(store.reader.gatherer, levels)).decode()
    assert text.split("\n") == ["\t".join(path) for path in paths] + ["", "", ""]
    clusters = _select.clusters_of(store.reader.gatherer, levels).tolist()
    assert clusters == [level(store, "fritz")] * 4 + [NO_LEVEL, 0]


def test_the_level_of_a_series_is_known_as_long_as_the_reference_is(store: Store) -> None:
    ref = store.open("load", "f1", "core", "1")
    found = _select.levels_of(store.reader.gatherer, np.array([ref, ref + (1 << 32), 4000], np.uint64))
    assert found.tolist() == [level(store, "fritz", "f1", "core", "1"), NO_LEVEL, NO_LEVEL]

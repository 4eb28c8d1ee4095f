"""Series named by their path: only looked up when they are opened, made with their first sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mstore.errors import ConfigError, InvalidRequest
from mstore.ingest.framed import LOOK_UP_ONLY
from mstore.model import MetricSpec, Reason
from mstore.shm import layout
from mstore.workers.path_interning import PathInterner
from tests import directory_rig

GRID, STAMPED = layout.KIND_GRID, layout.KIND_STAMPED
F32, F64, U64 = layout.TYPE_F32, layout.TYPE_F64, layout.TYPE_U64
CONFIGURED = {
    ("c", "flops"): MetricSpec("flops", 60, "sum", "f64"),
    ("d", "flops"): MetricSpec("flops", 10, "sum", "u64"),
    ("c", "beat"): MetricSpec("beat", 0, "none", "f32"),
    ("c", "rows"): MetricSpec("rows", 0, "none", "f64", "", (("n", "u64"), ("s", "f64"))),
}


@pytest.fixture
def directory() -> Iterator[directory_rig.Rig]:
    rig = directory_rig.Rig()
    yield rig
    rig.close()


def interner(directory: directory_rig.Rig, register: bool = True) -> PathInterner:
    def source(cluster: str, metric: str) -> MetricSpec | None:
        return CONFIGURED.get((cluster, metric))

    directory.writer.set_policy(register, 60, 1, directory.max_series, 4 * directory.max_series)
    directory.writer.set_metric_source(lambda cluster, metric: source(cluster.decode(), metric.decode()))
    return PathInterner(directory.writer, source, register, 60)


def path(metric: str, host: str = "a", *below: str, cluster: str = "c") -> list[str]:
    return [cluster, host, metric, *below, *[""] * (4 - len(below))]


Found = list[tuple[int, int, int]]


def ask(
    which: PathInterner, times: list[int], paths: list[list[str]], specs: list[Any] | None = None
) -> Found:
    """(reference, type, kind) of each."""
    refs, types, kinds, _ = which.paths(paths, np.array(times, "<i8").tobytes(), specs)
    return list(zip(np.frombuffer(refs, "<u8").tolist(), types, kinds, strict=True))


def look_up(which: PathInterner, *paths: list[str], specs: list[Any] | None = None) -> Found:
    return ask(which, [LOOK_UP_ONLY] * len(paths), list(paths), specs)


def make(which: PathInterner, *paths: list[str], specs: list[Any] | None = None) -> Found:
    return ask(which, [1000] * len(paths), list(paths), specs)


def test_a_look_up_makes_nothing_and_says_what_a_series_would_be(directory: directory_rig.Rig) -> None:
    which = interner(directory)
    found = look_up(
        which, path("flops"), path("flops", cluster="d"), path("beat"), path("rows"), path("other")
    )
    assert found == [(0, F64, GRID), (0, U64, GRID), (0, F64, STAMPED), (0, 0, STAMPED), (0, F32, GRID)]
    assert directory.writer.counts()["n_series"] == directory.writer.counts()["n_metrics"] == 0
    assert not directory.writer.unpublished


def test_what_is_looked_up_is_what_is_made(directory: directory_rig.Rig) -> None:
    which = interner(directory)
    paths = [path(name, "a", "core", "1") for name in ("flops", "beat", "rows", "other")]
    before, made = look_up(which, *paths), make(which, *paths)
    directory.writer.publish()
    assert [one[1:] for one in before] == [one[1:] for one in made]
    assert [ref for ref, _, _ in made] == [1 << 32 | slot for slot in range(4)]
    assert look_up(which, *paths, path("flops", "b")) == [*made, (0, F64, GRID)]
    assert make(which, *paths) == made


def test_an_unknown_metric_is_refused_unless_it_is_registered_or_described(
    directory: directory_rig.Rig,
) -> None:
    which = interner(directory, register=False)
    spec = [10, "sum", "u64", "B", []]
    for found in (
        look_up(which, path("other"), path("own"), specs=[None, spec]),
        make(which, path("other"), path("own"), specs=[None, spec]),
    ):
        ref, *_ = found[0]
        assert ref & 0xFFFF_FFFF == layout.IGNORE_SLOT
        assert ref >> 56 == Reason.UNKNOWN_METRIC
        assert found[1][1:] == (U64, GRID)
    directory.writer.publish()
    assert look_up(which, path("own", "b")) == [(0, U64, GRID)], "defined by now"
    assert look_up(which, path("own", cluster="d"))[0][0] & 0xFFFF_FFFF == layout.IGNORE_SLOT


def test_the_configuration_goes_before_the_clients_own_description(directory: directory_rig.Rig) -> None:
    which = interner(directory)
    spec = [10, "none", "f32", "", []]
    assert look_up(which, path("flops"), specs=[spec]) == [(0, F64, GRID)]
    assert make(which, path("flops"), specs=[spec])[0][1:] == (F64, GRID)


def test_a_series_keeps_its_type_when_its_metric_is_defined_anew(directory: directory_rig.Rig) -> None:
    which = interner(directory)
    made = make(which, path("other"))
    directory.writer.publish()
    directory.writer.define_metric("c", MetricSpec("other", 60, "avg", "u64"))
    directory.writer.publish()
    assert look_up(which, path("other"), path("other", "b")) == [*made, (0, U64, GRID)]
    assert made[0][1:] == (F32, GRID)


def test_columns_of_a_description_are_those_of_the_series(directory: directory_rig.Rig) -> None:
    which = interner(directory)
    spec = [0, "none", "f64", "", [["reads", "u64"], ["seconds", "f64"]]]
    (found,) = make(which, path("io"), specs=[spec])
    directory.writer.publish()
    series = directory.writer.series(found[0] & 0xFFFF_FFFF)
    assert series is not None
    assert (series.kind, series.n_columns) == (STAMPED, 2)
    assert directory.writer.metric(series.metric).columns == (("reads", "u64"), ("seconds", "f64"))


@pytest.mark.parametrize(
    "spec",
    [
        [60, "max", "f32", "", []], [60, "avg", "f16", "", []], [60, "avg", "f32", "", [["x", "f64"]]],
        [0, "none", "f64", "", [["", "f64"]]], [0, "none", "f64", "", [["x", "f32"]]],
        [0, "none", "f64", "", [[f"x{i}", "f64"] for i in range(64)]],
    ],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_an_error_and_makes_nothing(
    directory: directory_rig.Rig, spec: list[Any]
) -> None:
    which = interner(directory)
    for how in (look_up, make):
        with pytest.raises(ConfigError, match="metric new"):
            how(which, path("other"), path("new"), specs=[None, spec])
    assert directory.writer.counts()["n_series"] == 0
    assert not directory.writer.unpublished


def test_lists_of_different_lengths_are_an_error(directory: directory_rig.Rig) -> None:
    which = interner(directory)
    for times, specs in (
        (b"", None),
        (bytes(7), None),
        (bytes(16), None),
        (bytes(8), []),
        (bytes(8), [None, None]),
    ):
        with pytest.raises(InvalidRequest):
            which.paths([path("flops")], times, specs)
    assert which.paths([], b"", None) == (b"", b"", b"", b"")


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (path("load", ""), Reason.NO_HOST), (path("load", cluster=""), Reason.NO_CLUSTER), (path(""), Reason.BAD_SYNTAX),
        (path("load", "h" * 65_536), Reason.TOO_LONG), (path("l" * 256), Reason.TOO_LONG),
        (path("load", "a\x00b"), Reason.BAD_ENCODING), (path("load", "a", "core", "\x9f"), Reason.BAD_ENCODING),
    ],
)  # fmt: skip
def test_impossible_names_are_never_found_and_refused_when_they_are_to_be_made(
    directory: directory_rig.Rig, series: list[str], reason: Reason
) -> None:
    which = interner(directory)
    assert look_up(which, series)[0][0] in (0, (int(Reason.UNKNOWN_METRIC) << 24) << 32 | layout.IGNORE_SLOT)
    refused, made = make(which, series, path("load"))
    assert refused[0] & 0xFFFF_FFFF == layout.IGNORE_SLOT
    assert refused[0] >> 56 == reason
    assert made[0] == 1 << 32
    directory.writer.publish()
    directory.writer.validate()


def test_a_metric_that_is_ignored_is_unknown_when_it_is_opened_though_its_series_exist(
    directory: directory_rig.Rig,
) -> None:
    which = interner(directory)
    made = make(which, path("load"), path("other"))
    directory.writer.publish()
    assert [kind for _, _, kind in look_up(which, path("load"), path("other"))] == [GRID, GRID]
    directory.writer.ignore_metrics([0])
    unknown = ((Reason.UNKNOWN_METRIC << 24) << 32 | layout.IGNORE_SLOT, 0, 0)
    assert look_up(which, path("load"), path("other")) == [unknown, made[1]]
    directory.writer.ignore_metrics([])
    assert look_up(which, path("load"), path("other")) == made

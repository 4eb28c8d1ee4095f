"""The metric store's own cases about health, asked of a served store in every way.

Its step of ten seconds is one of ten minutes here, so that no time that a test takes makes a fresh series a stale one. The
boundary to the second: unit/test_health.py::test_the_boundary_is_exact_to_the_second.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from mstore.errors import UnknownSelector
from tests.process.test_rules_answers import Everywhere
from tests.stores import served

STEP_S = 600
NAMES = ["load", "mem_used", "cpu_user", "cpu_system"]
CONFIG = f'retention = "0"\ndefault_step = {STEP_S}\n' + "".join(f"[metrics.{name}]\n" for name in NAMES)

FRESH, STALE = (-10, 0), (-20, -10)
"""First and last sample, in steps from now."""


def lines(host: str, name: str, first: int, last: int) -> str:
    now = int(time.time())
    return "".join(
        f"{name},cluster=c,hostname={host} value={k} {now + k * STEP_S}\n" for k in range(first, last + 1)
    )


@pytest.fixture(scope="module")
def store() -> Iterator[Everywhere]:
    text = ""
    for k, name in enumerate(NAMES):
        text += lines("node001", name, *FRESH)
        text += lines("node002", name, *(FRESH if k < 2 else STALE))
        text += lines("node003", name, *FRESH) if k < 2 else ""
        text += lines("node005", name, *STALE)
    text += lines("some", "load", *FRESH) + lines("some", "mem_used", *STALE)
    text += lines("recent", "load", -3, 0) + lines("old", "load", *STALE) + lines("edge", "load", -5, -5)
    with served(CONFIG) as server, Everywhere(server) as everywhere:
        everywhere.warm()
        assert everywhere.client.write(text).rejected == 0
        yield everywhere
        everywhere.let_go()


@pytest.mark.parametrize(
    ("expected", "states"),
    [(NAMES, ["full", "partial", "partial", "failed", "failed"]),
     (NAMES[:2], ["full", "full", "full", "failed", "failed"])],
)  # fmt: skip
def test_every_node_that_was_asked_for_is_full_partial_or_failed(
    store: Everywhere, expected: list[str], states: list[str]
) -> None:
    nodes = [f"node00{k}" for k in range(1, 6)]
    found = store.ask("health", "c", nodes, expected)
    assert [(host, one.state) for host, one in found.items()] == list(zip(nodes, states, strict=True))


def test_what_is_behind_is_degraded_and_what_never_came_is_missing(store: Everywhere) -> None:
    found = store.ask("healthy_metrics", "c", "some", NAMES[:3])
    assert (found.degraded, found.missing) == (("mem_used",), ("cpu_user",))
    found = store.ask("healthy_metrics", "c", "some", ["load"])
    assert (found.degraded, found.missing) == ((), ())


def test_a_host_that_nobody_has_heard_of_is_an_error_by_itself(store: Everywhere) -> None:
    with pytest.raises(UnknownSelector):
        store.ask("healthy_metrics", "c", "node004", NAMES)


@pytest.mark.parametrize(
    ("host", "state", "degraded", "missing"),
    [("recent", "full", (), ()), ("old", "failed", ("load",), ()), ("edge", "full", (), ()),
     ("node004", "failed", (), ())],
)  # fmt: skip
def test_a_series_is_healthy_while_its_last_slot_ended_no_more_than_five_steps_ago(
    store: Everywhere, host: str, state: str, degraded: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    """A single sample five steps ago ended four and a half steps ago."""
    found = store.ask("health", "c", [host], ["load"])[host]
    assert (found.state, found.degraded, found.missing) == (state, degraded, missing)

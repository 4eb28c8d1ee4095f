"""What the supervisor decides about deaths and connections."""

from __future__ import annotations

from mstore.workers.clockwatch import ClockWatch
from mstore.workers.spec import WorkerSpec
from mstore.workers.supervisor_state import DEATHS_MAX, WINDOW_S, RestartPolicy, Verdict, least_loaded


def test_a_dead_reader_or_parser_is_replaced_in_place() -> None:
    policy = RestartPolicy()
    assert policy.died("query-0", "query", 0.0) is Verdict.RESPAWN
    assert policy.died("ingest-1", "ingest", 0.1) is Verdict.RESPAWN


def test_a_dead_persister_renews_the_store() -> None:
    assert RestartPolicy().died("persister", "persister", 0.0) is Verdict.RENEW


def test_a_worker_that_keeps_dying_stops_the_store() -> None:
    policy = RestartPolicy()
    verdicts = [policy.died("ingest-0", "ingest", float(i)) for i in range(DEATHS_MAX + 1)]
    assert verdicts == [Verdict.RESPAWN] * DEATHS_MAX + [Verdict.GIVE_UP]


def test_deaths_long_ago_are_forgotten() -> None:
    policy = RestartPolicy()
    for i in range(DEATHS_MAX):
        policy.died("ingest-0", "ingest", float(i))
    assert policy.died("ingest-0", "ingest", WINDOW_S + 2.0 * DEATHS_MAX) is Verdict.RESPAWN


def test_deaths_of_one_worker_do_not_count_for_another() -> None:
    policy = RestartPolicy(deaths_max=1)
    policy.died("ingest-0", "ingest", 0.0)
    assert policy.died("ingest-1", "ingest", 0.0) is Verdict.RESPAWN


def test_connections_go_to_the_least_loaded_worker() -> None:
    assert least_loaded([3, 1, 2], [3, 1, 2], [3, 1, 2]) == 1


def test_connections_on_their_way_to_a_worker_count_as_its_load() -> None:
    # Worker 0 was sent ten connections and has taken none of them yet.
    assert least_loaded([0, 2], [10, 2], [0, 2]) == 1


def test_a_jump_of_the_wall_clock_is_noticed_and_forgiven_when_it_comes_back() -> None:
    watch = ClockWatch(wall_s=1000.0, monotonic_s=5.0)
    assert watch.agrees(wall_s=1100.0, monotonic_s=105.0)
    assert not watch.agrees(wall_s=1200.0, monotonic_s=106.0)
    assert not watch.agrees(wall_s=900.0, monotonic_s=107.0)
    assert watch.agrees(wall_s=1103.0, monotonic_s=108.0)


def test_a_worker_spec_survives_its_way_through_the_command_line() -> None:
    spec = WorkerSpec(
        "ingest", 1, 2, "dir with space", 4, 2**63 - 1, {"control": "a"}, 5, 6, (7, 8), (10,), 9
    )
    assert WorkerSpec.from_json(spec.to_json()) == spec

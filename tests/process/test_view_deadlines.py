"""Views of jobs and nodes that cannot be done in their deadline: the worker ends them, and what they held is free again.

A client gives up at the same moment as the store, so the requests are sent with a deadline of their own and waited for
much longer: what comes is the worker's answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mstore import clock, paths
from mstore.client.session import Session
from mstore.errors import Timeout
from mstore.ipc import messages as m
from mstore.ipc.transport import run
from mstore.jobs import JobData
from mstore.jobs.loaded import Loaded
from mstore.jobs.request import LoadRequest
from tests.jobs_rig import DOCUMENT, job
from tests.stores import Server, peak_bytes, served

START = int(time.time()) // 60 * 60 - 40_000
N = 500
END = START + N * 60
N_HOSTS = 15_000
"""All but one have sent a single sample of each metric: an answer holds all slots of each, and little has to be written."""
NODES = f"n1,x[1-{N_HOSTS - 1}]"
METRICS = ["flops", "mem_bw", "cpu_load"]
SHORT_MS = 40
"""Far less than any of the views takes, which read and answer 30,000 series at least, and more than a slice."""
PATIENCE_S = 300
JOB = job("n1", *(f"x{i}" for i in range(1, N_HOSTS)), startTime=START, duration=N * 60)
VIEWS = {
    "job_data": LoadRequest.of_job(JOB, END, METRICS),
    "job_statistics": LoadRequest.of_job(JOB, END, METRICS, with_data=False),
    "job_scoped_statistics": LoadRequest.of_job(JOB, END, METRICS[:2], ("core", "node"), with_data=False),
    "node_data": LoadRequest.of_nodes("tiny", START, END, END, NODES, METRICS),
    "node_list_data": LoadRequest.of_nodes("tiny", START, END, END, NODES, METRICS[:2], ("core", "socket")),
}
SMALL = LoadRequest.of_job(job("n1", startTime=START, duration=300), END, ["flops"])


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    config = 'topology = ["tiny.json"]\nretention = "0"\nquery_workers = 1\n'
    with served(config, {"tiny.json": json.dumps(DOCUMENT)}) as server:
        with server.client() as client:
            lines = [
                f"{name},cluster=tiny,hostname=n1,type={scope},type-id={k} value={k + 1} {START + 60 * i}\n"
                for name, scope, n in (("flops", "hwthread", 8), ("mem_bw", "socket", 2), ("cpu_load", "node", 1))
                for k in range(n)
                for i in range(N)
            ] + [
                f"{name},cluster=tiny,hostname=x{i},type=node value=1 {END - 60}\n"
                for i in range(1, N_HOSTS)
                for name in METRICS
            ]  # fmt: skip
            assert client.write("".join(lines)).written == len(lines)
        yield server


class Connection:
    """One connection to the only query worker, which answers its requests one after the other."""

    def __init__(self, server: Server) -> None:
        self._session = Session(paths.socket_path(server.directory, "query"), m.Hello(m.VERSION, "query"))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.forget()

    def ask(self, request: LoadRequest, deadline_ms: int = 1000 * PATIENCE_S) -> Loaded:
        """raises what the worker answers; a Timeout that is not the worker's is a failure"""
        message = m.Load.of(request, deadline_ms)
        try:
            reply = run(self._session.exchange(message, clock.monotonic_s() + PATIENCE_S))
        except Timeout as error:
            if error.message != "not done within the deadline":
                raise AssertionError("the worker did not answer") from error
            raise
        assert isinstance(reply, m.LoadAnswer)
        return reply.loaded(request.cluster)


def small_view_is_answered(connection: Connection) -> bool:
    (flops,) = JobData(connection.ask(SMALL))["flops"]["node"].series
    return flops.values.tolist() == [36.0] * 5


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_ends_at_its_deadline_and_the_next_question_is_answered(store: Server, name: str) -> None:
    """How long it took is the best of three, compared with the whole view's: a machine may be busy for a moment."""
    with Connection(store) as connection:
        began_s = clock.monotonic_s()
        assert len(connection.ask(VIEWS[name]).packed) >= 2 * N_HOSTS
        whole_s = clock.monotonic_s() - began_s
        took_s = []
        for _ in range(3):
            began_s = clock.monotonic_s()
            with pytest.raises(Timeout):
                connection.ask(VIEWS[name], SHORT_MS)
            took_s.append(clock.monotonic_s() - began_s)
            assert small_view_is_answered(connection)
    assert SHORT_MS / 1000 <= min(took_s) < whole_s / 2, whole_s


def test_others_are_answered_while_a_view_runs_into_its_deadline(store: Server) -> None:
    with ThreadPoolExecutor(1) as pool, Connection(store) as first, Connection(store) as second:
        under_way = pool.submit(first.ask, VIEWS["job_data"], 5 * SHORT_MS)
        n_served = 0
        while not under_way.done():
            assert small_view_is_answered(second)
            n_served += not under_way.done()
        assert isinstance(under_way.exception(), Timeout)
        assert n_served > 0


def test_views_that_were_ended_leave_no_memory_behind(store: Server) -> None:
    """Ended when part of the answer is there: a dozen of them take no more than the whole one had."""
    view, pid = VIEWS["job_data"], store.worker_pid("query")
    with Connection(store) as connection:
        took_s = []
        for _ in range(2):
            began_s = clock.monotonic_s()
            answer_bytes = len(connection.ask(view).packed.values)
            took_s.append(clock.monotonic_s() - began_s)
        assert answer_bytes >= len(METRICS) * N_HOSTS * N * 4
        before = peak_bytes(pid)
        n_ended = 0
        for percent in (20, 30, 40, 50) * 3:
            try:
                connection.ask(view, int(min(took_s) * 10 * percent))
            except Timeout:
                n_ended += 1
            assert small_view_is_answered(connection)
    assert n_ended >= 6, "the deadline was to come before the end"
    assert peak_bytes(pid) - before < answer_bytes

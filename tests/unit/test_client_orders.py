"""Orders of a client, which are sent once, and what a time-out leaves open."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mstore
from mstore import errors
from mstore.client.sync import Client
from mstore.ipc import messages as m
from tests.unit.test_client_store import FakeStore, fake_store


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with fake_store(tmp_path) as found:
        yield found


@pytest.fixture
def client(store: FakeStore) -> Any:
    with mstore.connect(store.directory, timeout=5) as found:
        yield found


ORDERS: list[Callable[[Client], object]] = [
    lambda client: client.control("restart"),
    lambda client: client.control("stop"),
    lambda client: client.control("snapshot"),
    lambda client: client.protect("c", "h"),
    lambda client: client.free_all(),
    lambda client: client.force_free(),
    lambda client: client.archive(),
]


@pytest.mark.parametrize("order", ORDERS)
def test_order_whose_connection_breaks_is_not_sent_to_a_successor(
    store: FakeStore, order: Callable[[Client], object]
) -> None:
    with mstore.connect(store.directory, timeout=20) as client:
        store.received.clear()
        store.answer = lambda _: "drop"
        began = time.monotonic()
        with pytest.raises(
            errors.Unavailable, match=r"supervisor ended before it answered .*log .*mstore serve"
        ):
            order(client)
        assert time.monotonic() - began < 10
        assert len(store.received) == 1
        store.answer = store.usual
        assert client.control("reload") == {"did": "Reload"}


def test_order_that_was_given_up_by_who_carries_it_out_is_not_sent_again(
    store: FakeStore, client: Client
) -> None:
    answers = iter([m.Error("unavailable", "the persister died")])
    store.answer = lambda message: next(answers, None) or store.usual(message)
    with pytest.raises(errors.Unavailable, match="not done, or in part: the persister died"):
        client.control("snapshot")
    assert len(store.requests(m.Snapshot)) == 1


def test_order_over_an_idle_connection_that_the_store_has_closed_is_given_once(
    store: FakeStore, client: Client
) -> None:
    client.control("reload")
    store.drop_connections()
    assert client.control("reload") == {"did": "Reload"}
    assert len(store.requests(m.Reload)) == 2


def test_what_a_time_out_leaves_open_is_told_of_writes_and_orders_alone(store: FakeStore) -> None:
    store.answer = lambda _: None
    with Client(store.directory, timeout=0.2) as client:
        for ask in (client.info, lambda: client.info(starting=True), client.ping):
            with pytest.raises(errors.Timeout, match=r"no answer in time at .*\.sock$"):
                ask()
        with pytest.raises(errors.Timeout, match="ordered may still be done"):
            client.control("stop")


def test_write_that_was_never_sent_is_not_told_to_be_stored_perhaps(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as stopped, Client(tmp_path, timeout=0.2) as client:
        stopped.bind(str(tmp_path / "run" / "ingest.sock"))
        stopped.listen()
        with pytest.raises(errors.Timeout, match=r"no answer in time at .*ingest\.sock$"):
            client.write("l")

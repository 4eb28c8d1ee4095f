"""A whole store, driven as a collector does it: lines in over the socket, one reply line back, numbers out."""

from __future__ import annotations

import stat
from collections.abc import Callable

import numpy as np

import mstore
from tests.stores import Server, read_all, until

Serve = Callable[..., Server]


def fields_of(reply: bytes) -> dict[str, str]:
    assert reply.endswith(b"\n")
    assert reply.count(b"\n") == 1
    return dict(word.split("=", 1) for word in reply.decode().split())


def test_a_newcomers_first_line_is_stored_and_answered(serve: Serve, now: int) -> None:
    server = serve()
    reply = fields_of(server.send_text(f"cpu_load,cluster=fritz,hostname=f0201 value=1.25 {now}\n".encode()))
    assert reply == {"written": "1", "rejected": "0", "ignored": "0", "durable": "yes"}
    with server.client() as client:
        series = client.query("fritz", "f0201", "cpu_load", now, now + 60)
        assert series.values.tolist() == [1.25]
        assert series.times.tolist() == [now]
        assert client.children() == ["fritz"]
        assert client.children("fritz") == ["f0201"]
        assert client.paths(2) == [("fritz", "f0201")]
        assert [metric.name for metric in client.metrics()] == ["cpu_load"]
    with mstore.attach(server.directory) as reader:
        assert reader.query("fritz", "f0201", "cpu_load", now, now + 60).values.tolist() == [1.25]


def test_sockets_are_for_the_group_and_control_is_for_the_owner(serve: Serve) -> None:
    server = serve()
    modes = {
        name: stat.S_IMODE((server.directory / "run" / f"{name}.sock").stat().st_mode)
        for name in ("ingest", "query", "control")
    }
    assert modes == {"ingest": 0o660, "query": 0o660, "control": 0o600}


def test_every_line_is_counted_once_and_good_lines_between_bad_ones_are_stored(
    serve: Serve, now: int
) -> None:
    server = serve()
    good = f"m,cluster=c,hostname=h{{}} value={{}} {now}\n"
    lines = [
        good.format(1, 1.5), "# a comment\n", "\n", good.format(2, 2.5),
        f"m,cluster=c value=1 {now}\n",  # no_host
        f"m,hostname=h value=1 {now}\n",  # no_cluster
        f"m,cluster=c,hostname=h value=true {now}\n",  # bad_value
        f'm,cluster=c,hostname=h value="x" {now}\n',  # bad_value
        f"m,cluster=c,hostname=h other=1 {now}\n",  # unknown_field
        "m,cluster=c,hostname=h value=1 -5\n",  # bad_timestamp
        "m,cluster=c,hostname=h value=1 12ab\n",  # bad_timestamp
        f"m,cluster=c,hostname=h value=1 {now + 2 * 3600}\n",  # too_far_ahead
        f"m,cluster=c,hostname=h value=1 {now - 50 * 3600}\n",  # too_late
        "nonsense\n",  # bad_syntax
        good.format(3, 3.5).rstrip("\n"),  # no newline at the end
    ]  # fmt: skip
    reply = fields_of(server.send_text("".join(lines).encode()))
    counted = {name: int(value) for name, value in reply.items() if name != "durable"}
    assert (counted["written"], counted["rejected"], counted["ignored"]) == (3, 10, 0)
    asked = ("no_host", "no_cluster", "bad_value", "unknown_field", "too_far_ahead", "too_late")
    assert {name: counted.get(name) for name in asked} == {
        "no_host": 1, "no_cluster": 1, "bad_value": 2, "unknown_field": 1, "too_far_ahead": 1, "too_late": 1,
    }  # fmt: skip
    assert counted["bad_timestamp"] == 2
    with server.client() as client:
        values = [client.query("c", f"h{i}", "m", now, now + 60).values.tolist() for i in (1, 2, 3)]
    assert values == [[1.5], [2.5], [3.5]]


def test_a_header_line_sets_cluster_precision_and_level(serve: Serve, now: int) -> None:
    server = serve()
    reply = fields_of(
        server.send_text(
            f"# mstore cluster=alex precision=ns ack=memory\nm,hostname=a1 value=7 {now * 10**9}\n".encode()
        )
    )
    assert (reply["written"], reply["durable"]) == ("1", "no")
    with server.client() as client:
        assert client.query("alex", "a1", "m", now, now + 60).values.tolist() == [7.0]


def test_a_bad_header_line_is_an_error_that_names_the_word(serve: Serve) -> None:
    reply = serve().send_text(b"# mstore precision=fortnight\nm,cluster=c,hostname=h value=1\n")
    assert reply.startswith(b"error=protocol")
    assert b"fortnight" in reply


def test_lines_arriving_byte_by_byte_are_whole(serve: Serve, now: int) -> None:
    server = serve()
    text = "".join(f"m,cluster=c,hostname=h{i} value={i} {now}\r\n" for i in range(5)).encode()
    with server.connect("ingest") as sock:
        for i in range(len(text)):
            sock.sendall(text[i : i + 1])
        sock.shutdown(1)
        assert fields_of(read_all(sock))["written"] == "5"
    with server.client() as client:
        assert [client.query("c", f"h{i}", "m", now, now + 60).values[0] for i in range(5)] == [0, 1, 2, 3, 4]


def test_an_over_long_line_is_counted_once_and_its_neighbours_are_stored(serve: Serve, now: int) -> None:
    server = serve()
    long = b"m,cluster=c,hostname=h,x=" + b"y" * 300_000 + f" value=1 {now}\n".encode()
    text = (
        f"m,cluster=c,hostname=a value=1 {now}\n".encode()
        + long
        + f"m,cluster=c,hostname=b value=2 {now}".encode()
    )
    reply = fields_of(server.send_text(text))
    assert (reply["written"], reply["rejected"], reply["too_long"]) == ("2", "1", "1")


def test_unknown_metrics_are_ignored_once_metrics_are_configured(serve: Serve, now: int) -> None:
    server = serve('[metrics.known]\nstep = 30\ntype = "u64"\nunit = "B"\n')
    big = 2**63 + 5
    text = (
        f"known,cluster=c,hostname=h value={big}u {now}\n"
        f"unknown,cluster=c,hostname=h value=1 {now}\n"
        f"known,cluster=c,hostname=h value=-1 {now}\n"
    )
    reply = fields_of(server.send_text(text.encode()))
    assert (reply["written"], reply["ignored"], reply["unknown_metric"], reply["out_of_range"]) == (
        "1",
        "1",
        "1",
        "1",
    )
    with server.client() as client:
        series = client.query("c", "h", "known", now, now + 60)
        assert series.step == 30
        assert series.unit == "B"
        assert series.values.dtype == np.uint64
        assert series.values[0] == big
        assert series.valid.tolist() == [True, False]


def test_levels_keep_type_and_id_apart_and_node_is_the_host(serve: Serve, now: int) -> None:
    server = serve()
    text = "".join([
        f"m,cluster=c,hostname=h,type=core1,type-id=2 value=1 {now}\n",
        f"m,cluster=c,hostname=h,type=core,type-id=12 value=2 {now}\n",
        f"n,cluster=c,hostname=h,type=node,type-id=0 value=3 {now}\n",
        f"net,cluster=c,hostname=h,type=node,stype=network,stype-id=enp1s0 value=4 {now}\n",
        f"net,cluster=c,hostname=h,type=node,subtype=network,stype-id=enp2s0 value=5 {now}\n",
        "nv,cluster=c,hostname=h,type=accelerator,type-id=00000000:49:00.0,stype=nvlink,stype-id=3"
        f" value=6 {now}\n",
    ])  # fmt: skip
    assert fields_of(server.send_text(text.encode()))["written"] == "6"
    with server.client() as client:

        def one(metric: str, **where: str) -> float:
            return float(client.query("c", "h", metric, now, now + 60, **where).values[0])

        assert one("m", type="core1", type_ids="2") == 1
        assert one("m", type="core", type_ids="12") == 2
        assert one("n") == 3
        assert one("net", subtype="network", subtype_ids="enp1s0") == 4
        assert one("net", subtype="network", subtype_ids="enp2s0") == 5
        assert (
            one("nv", type="accelerator", type_ids="00000000:49:00.0", subtype="nvlink", subtype_ids="3") == 6
        )


def test_fields_joined_become_metrics_of_their_own(serve: Serve, now: int) -> None:
    server = serve('fields = "join"\nunknown_metrics = "register"\n')
    reply = fields_of(server.send_text(f"cpu,cluster=c,host=h user=1.5,system=2.5 {now}\n".encode()))
    assert reply["written"] == "1"
    with server.client() as client:
        assert client.query("c", "h", "cpu_user", now, now + 60).values.tolist() == [1.5]
        assert client.query("c", "h", "cpu_system", now, now + 60).values.tolist() == [2.5]


def test_a_sender_that_never_shuts_down_gets_no_reply_and_its_lines_are_stored(
    serve: Serve, now: int
) -> None:
    server = serve()
    with server.connect("ingest") as sock, server.client() as client:
        sock.sendall(f"m,cluster=c,hostname=h value=1 {now}\n".encode())
        until(lambda: client.children(), "the first series")
        until(lambda: client.query("c", "h", "m", now, now + 60).values.tolist() == [1.0], "the sample")
        sock.settimeout(0.2)
        try:
            answer = sock.recv(1)
        except TimeoutError:
            answer = None
        assert answer is None


def test_a_stamped_metric_keeps_milliseconds(serve: Serve, now: int) -> None:
    server = serve('unknown_metrics = "register"\n[metrics.event]\nstep = 0\n')
    stamps = [now * 1000 + 7, now * 1000 + 9, now * 1000 + 8]
    text = "# mstore precision=ms\n" + "".join(
        f"event,cluster=c,hostname=h value={i} {t}\n" for i, t in enumerate(stamps)
    )
    assert fields_of(server.send_text(text.encode()))["written"] == "3"
    with server.client() as client:
        series = client.query("c", "h", "event", now - 10, now + 10)
        assert series.times_ms.tolist() == [now * 1000 + 7, now * 1000 + 8, now * 1000 + 9]
        assert series.values.tolist() == [0.0, 2.0, 1.0]

"""Whatever is thrown at the sockets: a typed error or a counted rejection, and the store goes on as if nothing had been."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import struct
from collections.abc import Callable, Iterator

import msgpack
import pytest

import mstore
from mstore import errors, limits
from tests.stores import Server, read_all, until

Serve = Callable[..., Server]
HEADER = struct.Struct("<BBHIQ")


def frame(tag: int, body: bytes, request_id: int = 1, magic: int = 0xC1) -> bytes:
    return HEADER.pack(magic, tag, 0, len(body), request_id) + body


def hello(role: str = "ingest", version: int = 1) -> bytes:
    return frame(1, msgpack.packb([version, role]))


def exchange(server: Server, which: str, data: bytes) -> bytes:
    """Everything the server says before it closes, or before we have shut down and it has nothing more to say."""
    with server.connect(which) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        try:
            return read_all(sock)
        except ConnectionResetError:
            return b""


def assert_works(server: Server, now: int) -> None:
    assert server.send_text(f"alive,cluster=c,hostname=h value=1 {now}\n".encode()).startswith(b"written=1 ")
    with server.client() as client:
        assert client.query("c", "h", "alive", now, now + 60).values.tolist() == [1.0]


def test_broken_frames_get_a_typed_error_and_change_nothing(serve: Serve, now: int) -> None:
    server = serve()
    cases = {
        "wrong magic after a frame": hello() + b"\x00" * 32,
        "unknown tag": hello() + frame(200, b"\x90"),
        "flags": hello() + HEADER.pack(0xC1, 26, 7, 1, 1) + b"\x90",
        "oversized": hello() + HEADER.pack(0xC1, 3, 0, limits.FRAME_BYTES_MAX + 1, 1),
        "not msgpack": hello() + frame(3, b"\xc1\xc1\xc1"),
        "wrong field type": hello() + frame(3, msgpack.packb([17])),
        "no hello": frame(3, msgpack.packb([b"m,cluster=c,hostname=h value=1\n"])),
        "a query on ingest": hello() + frame(19, msgpack.packb([1])),
    }
    for name, data in cases.items():
        said = exchange(server, "ingest", data)
        assert HEADER.size < len(said), name
        last = _frames(said)[-1]
        assert last[0] == 31, name
        assert last[2][0] in {"protocol", "unknown_message", "frame_too_large"}, (name, last)
    assert server.info()["counters"]["written"] == 0
    assert_works(server, now)


def _frames(data: bytes) -> list[tuple[int, int, list[object]]]:
    found = []
    while data:
        _, tag, _, length, request_id = HEADER.unpack_from(data)
        found.append((tag, request_id, msgpack.unpackb(data[16 : 16 + length])))
        data = data[16 + length :]
    return found


@pytest.mark.parametrize("which", ["ingest", "query", "control"])
def test_a_newer_version_is_answered_with_ours_and_none_at_all_is_refused(serve: Serve, which: str) -> None:
    server = serve()
    said = _frames(exchange(server, which, hello(which, 7)))
    assert (said[0][0], said[0][2][0]) == (2, 1)
    said = _frames(exchange(server, which, hello(which, 0)))
    assert said[-1][0] == 31
    assert said[-1][2][0] in {"protocol", "version_mismatch"}


@pytest.mark.parametrize("which", ["ingest", "query", "control"])
def test_garbage_on_every_socket_leaves_the_store_alive(
    serve: Serve, now: int, seed: int, which: str
) -> None:
    server = serve()
    rng = random.Random(seed)
    for _ in range(60):
        data = bytes(rng.getrandbits(8) for _ in range(rng.randrange(1, 400)))
        if rng.random() < 0.5:
            data = hello(which) + b"\xc1" + data
        exchange(server, which, data)
    assert_works(server, now)
    assert server.info()["counters"]["restarts"] == 0


def test_a_truncated_frame_is_stored_nowhere(serve: Serve, now: int) -> None:
    server = serve()
    whole = hello() + frame(3, msgpack.packb([f"m,cluster=c,hostname=h value=1 {now}\n".encode()]))
    for cut in range(len(hello()) + 1, len(whole)):
        exchange(server, "ingest", whole[:cut])
    assert server.info()["counters"]["written"] == 0
    assert_works(server, now)


def test_names_of_no_and_of_64_thousand_bytes_not_utf8_and_with_nul_are_refused(
    serve: Serve, now: int
) -> None:
    server = serve()
    tail = f" value=1 {now}\n".encode()
    lines = [
        b"m,cluster=c,hostname=" + tail,
        b",cluster=c,hostname=h" + tail,
        b"m,cluster=c,hostname=" + b"h" * 64_000 + tail,
        b"m" * 256 + b",cluster=c,hostname=h" + tail,
        b"m,cluster=c,hostname=\xff\xfe" + tail,
        b"m,cluster=c,hostname=a\x00b" + tail,
        b"m,cluster=c,hostname=" + b"h" * 255 + tail,  # the longest that is allowed
    ]
    reply = server.send_text(b"".join(lines))
    assert reply.startswith(b"written=1 rejected=6 ignored=0 "), reply
    assert_works(server, now)


def test_more_series_than_allowed_are_refused_by_name_and_the_others_stored(serve: Serve, now: int) -> None:
    server = serve("max_series = 100\n")
    reply = server.send_text(
        "".join(f"m,cluster=c,hostname=h{i} value={i} {now}\n" for i in range(150)).encode()
    )
    assert reply.startswith(b"written=100 rejected=50 ")
    assert b"series_limit=50" in reply
    with server.client() as client:
        assert client.query("c", "h99", "m", now, now + 60).values.tolist() == [99.0]


@contextlib.contextmanager
def many_sockets(server: Server, which: str, n: int) -> Iterator[list[socket.socket]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, n + 500)), hard))
    socks: list[socket.socket] = []
    try:
        socks += (server.connect(which) for _ in range(n))
        yield socks
    finally:
        for sock in socks:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_connections_at_once_are_all_served(serve: Serve, now: int) -> None:
    server = serve()
    with many_sockets(server, "ingest", 1000) as socks:
        for i, sock in enumerate(socks):
            sock.sendall(
                f"m,cluster=c,hostname=h{i % 50},type=core,type-id={i // 50} value={i} {now}\n".encode()
            )
        for sock in socks:
            sock.shutdown(socket.SHUT_WR)
        replies = [read_all(sock) for sock in socks]
    assert all(reply.startswith(b"written=1 rejected=0") for reply in replies)
    with server.client() as client:
        found = [
            series.values[0]
            for i in range(50)
            for series in client.query("c", f"h{i}", "m", now, now + 60, type="core")
        ]
    assert sorted(found) == list(range(1000))


def test_a_thousand_idle_connections_are_kept(serve: Serve, now: int) -> None:
    server = serve()
    with many_sockets(server, "query", 1000):
        until(lambda: server.info()["counters"]["connections_open"] >= 1000, "all connections")
        assert_works(server, now)


def test_a_client_that_disappears_in_mid_write_leaves_whole_lines_only(serve: Serve, now: int) -> None:
    server = serve()
    with server.connect("ingest") as sock:
        sock.sendall(f"m,cluster=c,hostname=a value=1 {now}\nm,cluster=c,hostname=b value=12".encode())
    with server.client() as client:
        until(lambda: client.children("c") == ["a"] if client.children() else False, "the whole line")
        series = client.query("c", "b", "m", now, now + 60)
        assert series.why
    assert_works(server, now)


def test_bad_questions_are_typed_errors(serve: Serve, now: int) -> None:
    server = serve()
    assert_works(server, now)
    with server.client() as client:
        with pytest.raises(errors.UnknownMetric):
            client.query("c", "h", "nosuch", now, now + 60)
        with pytest.raises(errors.InvalidTimeRange):
            client.query("c", "h", "alive", now + 60, now)
        with pytest.raises(errors.InvalidStep):
            client.query("c", "h", "alive", now, now + 600, resolution=90)
        with pytest.raises(mstore.MstoreError):
            client.query("c", "h", "alive", -(2**40), 2**40)
        empty = client.query("c", "nohost", "alive", now, now + 120)
        assert empty.why
        assert len(empty) == 2
        assert len(client.query("c", "h", "alive", now, now)) == 0


def test_a_full_store_refuses_new_series_by_name_and_keeps_what_it_has(serve: Serve, now: int) -> None:
    server = serve('memory_cap = "64MiB"\nretention = "0"\nmax_series = 2000000\n')
    written = 0
    with server.client(timeout=5) as client:
        client.write(f"m,cluster=c,hostname=first value=1 {now}\n")
        for k in range(40):
            text = "".join(f"m,cluster=c,hostname=h{k}x{i} value={i} {now}\n" for i in range(20_000))
            result = client.write(text)
            assert result.written + result.rejected == 20_000
            written += result.written
            if result.reasons.get("store_full"):
                break
        else:
            pytest.fail(f"{written} series fitted into 64 MiB")
        assert client.query("c", "first", "m", now, now + 60).values.tolist() == [1.0]
    used = sum(path.stat().st_blocks * 512 for path in _segments(server))
    assert used <= 64 * 2**20


def _segments(server: Server) -> list[os.DirEntry[str]]:
    from mstore.shm.segment import name_prefix

    prefix = name_prefix(server.directory)
    return [entry for entry in os.scandir("/dev/shm") if entry.name.startswith(prefix)]

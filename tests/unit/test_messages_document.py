"""docs/format/ipc.md against the code: a client of struct and msgpack alone, and the tables of the page."""

import re
import socket
import struct
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import msgpack
import pytest

from mstore import paths
from mstore.errors import BY_CODE
from mstore.ipc import messages as m
from mstore.ipc.messages.tags import NAME_OF
from mstore.model import Reason
from tests.unit.test_client_store import FakeStore, fake_store

PAGE = (Path(__file__).parents[2] / "docs" / "format" / "ipc.md").read_text()


class PlainClient:
    """What the page says, and nothing of mstore's own client or codec."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(path)
        self.request_id = 0

    def send(self, tag: int, fields: list[Any]) -> int:
        self.request_id += 1
        body = msgpack.packb(fields)
        self.sock.sendall(struct.pack("<BBHIQ", 0xC1, tag, 0, len(body), self.request_id) + body)
        return self.request_id

    def receive(self) -> tuple[int, int, list[Any]]:
        magic, tag, flags, length, request_id = struct.unpack("<BBHIQ", self._exactly(16))
        assert (magic, flags) == (0xC1, 0)
        return tag, request_id, msgpack.unpackb(self._exactly(length))

    def ask(self, tag: int, fields: list[Any]) -> tuple[int, list[Any]]:
        sent = self.send(tag, fields)
        found, request_id, values = self.receive()
        assert request_id == sent
        return found, values

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            piece = self.sock.recv(n - len(data))
            assert piece, "closed"
            data += piece
        return data


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with fake_store(tmp_path) as found:
        yield found


def connect(store: FakeStore, which: str) -> PlainClient:
    return PlainClient(paths.socket_path(store.directory, which))


def test_plain_client_writes_lines_with_a_window_and_columns(store: FakeStore) -> None:
    client = connect(store, "ingest")
    tag, welcome = client.ask(1, [1, "ingest", "durable", "fritz", "s", "a test", 0])
    assert (tag, welcome[0], welcome[3]) == (2, 1, "durable")
    ids = [client.send(3, [b"cpu,hostname=a value=%d 1700000000\n" % i]) for i in range(3)]
    assert [client.receive() for _ in ids] == [(4, one, [1, 0, 0, {}, True]) for one in ids]
    tag, opened = client.ask(
        5, [[["fritz", "f1", "m", "", "", "", ""], ["fritz", "f1", "nope", "", "", "", ""]]]
    )
    assert (tag, struct.unpack("<2I", opened[0]), opened[1]) == (6, (0, 0xFFFFFFFF), b"\1\1")
    assert opened[2] == [[1, "unknown_metric"]]
    values = struct.pack("<2f", 1.5, 2.5)
    assert client.ask(7, [struct.pack("<I", 0), struct.pack("<2q", 60, 120), values, 1]) == (
        4,
        [2, 0, 0, {}, True],
    )
    assert client.ask(8, [0, struct.pack("<q", 1000), struct.pack("<d", 3.5)]) == (4, [1, 0, 0, {}, True])
    client.sock.close()
    assert store.text.count(b"\n") == 3
    (columns,) = store.requests(m.Columns)
    assert struct.unpack("<2f", columns.values) == (1.5, 2.5)


def test_plain_client_asks_and_reads_the_answer(store: FakeStore) -> None:
    client = connect(store, "query")
    assert client.ask(1, [1, "query"])[0] == 2
    tag, (many, series) = client.ask(16, ["c", "h", "power", 600, 900, "core", ["0", "1"]])
    assert (tag, many, len(series)) == (17, True, 2)
    meta, values, dtype, start, step, coverage, stamps = series[1]
    assert (meta["metric"], meta["type_id"], meta["unit"]) == ("power", "1", "W")
    assert (dtype, start, step, coverage, stamps) == ("<f4", 600, 60, None, None)
    assert struct.unpack("<5f", values) == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert client.ask(18, [["fritz"]]) == (20, [["a", "b"]])
    assert client.ask(26, [])[0] == 27
    client.sock.close()


def test_plain_client_reads_an_error(store: FakeStore) -> None:
    store.answer = lambda _: m.Error("unknown_metric", "no metric x", {"metric": "x"})
    client = connect(store, "query")
    client.ask(1, [1, "query"])
    assert client.ask(16, ["c", "h", "x", 0, 1]) == (31, ["unknown_metric", "no metric x", {"metric": "x"}])
    client.sock.close()


def _rows(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading or a line of the page."""
    lines = PAGE[PAGE.index(heading) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    rows = []
    for line in lines[first + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_page_lists_every_message_with_its_tag_and_fields_in_order() -> None:
    listed = {int(row[0]): (row[1], row[2]) for row in _rows("## 4. Messages")}
    assert set(listed) == set(m.TAGS)
    for tag, (name, text) in listed.items():
        assert name == NAME_OF[tag]
        cls = getattr(m, name)
        found = re.findall(r"(?:^|, )([a-z_]+) ", text)
        assert found == [one.name for one in fields(cls)], name
        for one, part in zip(fields(cls), re.split(r", (?=[a-z_]+ )", text), strict=True):
            optional = one.default is not MISSING or one.default_factory is not MISSING
            assert (" = " in part) == optional, f"{name}.{one.name}"


def test_page_lists_every_error_code() -> None:
    listed = {code for row in _rows("Codes of Error:") for code in re.findall(r"`([a-z_]+)`", row[0])}
    assert listed == set(BY_CODE)


def test_page_lists_every_reason_in_order() -> None:
    assert [row[0].strip("`") for row in _rows("Reasons in Written")] == [reason.public for reason in Reason]


def test_bytes_of_the_example_are_those_of_the_code() -> None:
    blocks = re.findall(r"```\n(c1 .*?)```", PAGE, re.DOTALL)
    text = "\n".join(blocks)
    data = bytes.fromhex("".join(re.findall(r"^((?:[0-9a-f]{2} )*[0-9a-f]{2})(?=  |$)", text, re.MULTILINE)))
    from mstore.ipc import framing

    found = [(frame.request_id, m.decode_frame(frame)) for frame in framing.FrameDecoder().feed(data)]
    assert found == [
        (1, m.Hello(1, "ingest")),
        (2, m.Lines(b"c,host=a value=1")),
        (2, m.Written(1, 0, 0, {}, True)),
    ]

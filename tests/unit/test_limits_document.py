"""The limits that docs/format/ipc.md promises to writers of clients are those in force."""

from __future__ import annotations

from pathlib import Path

import pytest

from mstore import limits

TEXT = " ".join((Path(__file__).resolve().parents[2] / "docs" / "format" / "ipc.md").read_text().split())

PROMISES = {
    "socket's path is at most {} bytes long": limits.SOCKET_PATH_BYTES_MAX,
    "the body length is at most {} MiB": limits.FRAME_BYTES_MAX // limits.MIB,
    "A frame must be complete within {} s of its first byte": limits.UNFINISHED_FRAME_S_MAX,
    "A client that does not read its replies for {} s is disconnected": limits.STALLED_READER_S_MAX,
    "At most {:,} handles a connection": limits.HANDLES_PER_CONNECTION_MAX,
    "At most {:,} queries": limits.FETCH_QUERIES_MAX,
    "At most {:,} values": limits.COLUMNS_VALUES_MAX,
    "longer than {} bytes (comments are no lines)": limits.LINE_BYTES_MAX,
}


@pytest.mark.parametrize("promise", PROMISES)
def test_a_limit_that_the_page_names_is_the_one_in_force(promise: str) -> None:
    assert promise.format(PROMISES[promise]) in TEXT


def test_what_every_sender_relies_on_stays() -> None:
    """Half a minute for a frame and for a reader, names of 255 bytes: senders are written for these."""
    assert (limits.UNFINISHED_FRAME_S_MAX, limits.STALLED_READER_S_MAX) == (30, 30)
    assert limits.NAME_BYTES_MAX == 255

"""Keys: measurement and tags taken apart, with their escapes, aliases, limits and reasons."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore import limits
from mstore.kernels._keys import parse
from mstore.kernels.reference_lines_text import parse_key
from mstore.model import Reason

PIECES = st.sampled_from(
    [
        *(
            b"cpu",
            b",",
            b"=",
            b" ",
            b"\\",
            b"host",
            b"hostname",
            b"cluster",
            b"type",
            b"node",
            b"type-id",
            b"stype",
        ),
        *(b"subtype-id", b"unit", b"x", b",host=a", b"y" * 254, b"\x01", b"\xff", b"\xc3\xa9", b"\xc2\x85"),
        *(b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf", b"\xf0\x90\x80\x80", b"\xf4\x90\x80\x80"),
    ]
)


def reason_of(key: bytes) -> int:
    return parse(key)[0]


def test_parts_are_found_in_any_order() -> None:
    expected = {
        "metric": b"cpu_user", "cluster": b"fritz", "host": b"f0201", "type": b"hwthread", "type_id": b"12",
        "unit": b"%",
    }  # fmt: skip
    assert parse(b"cpu_user,cluster=fritz,hostname=f0201,type=hwthread,type-id=12,unit=%") == (0, expected)
    assert parse(b"cpu_user,unit=%,type-id=12,type=hwthread,extra=1,host=f0201,cluster=fritz") == (
        0,
        expected,
    )


def test_escapes_are_undone_and_other_backslashes_stay() -> None:
    reason, parts = parse(rb"a\,b\ c\=d,host=x\=y\,z\ \n,cluster=c\\,type=t")
    assert (
        reason == Reason.BAD_SYNTAX
    )  # the comma after two backslashes is escaped, so cluster holds an equals sign
    reason, parts = parse(rb"a\,b\ c\=d,host=x\=y\,z\ \n")
    assert (reason, parts) == (0, {"metric": rb"a,b c\=d", "host": rb"x=y,z \n"})


def test_the_last_of_several_equal_tags_wins_across_aliases() -> None:
    assert parse(b"m,host=a,hostname=b")[1]["host"] == b"b"
    assert parse(b"m,hostname=b,host=a,stype=x,subtype=y,subtype-id=1,stype-id=2")[1] == {
        "metric": b"m", "host": b"a", "subtype": b"y", "subtype_id": b"2",
    }  # fmt: skip
    assert reason_of(b"m,host=a,host=") == Reason.NO_HOST


def test_type_node_is_the_host_itself_and_keeps_the_subtype() -> None:
    expected = {"metric": b"net", "host": b"h", "subtype": b"network", "subtype_id": b"eth0"}
    assert parse(b"net,host=h,type=node,type-id=0,stype=network,stype-id=eth0") == (0, expected)
    assert parse(b"m,host=h,type-id=7")[1] == {"metric": b"m", "host": b"h", "type_id": b"7"}


def test_ids_like_paths_percent_and_colons_are_names() -> None:
    for name in (b"/home", b"%", b"00000000:49:00.0", b"..", "é".encode()):
        assert parse(b"m,host=h,type=disk,type-id=" + name)[1]["type_id"] == name


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (b"", Reason.BAD_SYNTAX),
        (b",host=a", Reason.BAD_SYNTAX),
        (b"m,", Reason.BAD_SYNTAX),
        (b"m,host", Reason.BAD_SYNTAX),
        (b"m,=a,host=b", Reason.BAD_SYNTAX),
        (b"m,host=a=b", Reason.BAD_SYNTAX),
        (b"m,host=a b", Reason.BAD_SYNTAX),
        (b"m,host=a,,x=y", Reason.BAD_SYNTAX),
        (b"m,host=a,type=", Reason.BAD_SYNTAX),
        (b"m,host=a,cluster=", Reason.BAD_SYNTAX),
        (b"m", Reason.NO_HOST),
        (b"m,cluster=a,hostname=", Reason.NO_HOST),
        (b"m,host=" + b"a" * 256, Reason.TOO_LONG),
        (b"m" * 256 + b",host=a", Reason.TOO_LONG),
        (b"m,host=a\x00", Reason.BAD_ENCODING),
        (b"m,host=\x7f", Reason.BAD_ENCODING),
        (b"m,host=\xc2\x80", Reason.BAD_ENCODING),
        (b"m,host=\xed\xa0\x80", Reason.BAD_ENCODING),
        (b"m,host=\xe2\x82", Reason.BAD_ENCODING),
        (b"m,host=\xe0\x9f\xbf", Reason.BAD_ENCODING),
        (b"m,host=\xf0\x8f\xbf\xbf", Reason.BAD_ENCODING),
        (b"m,host=\xf4\x90\x80\x80", Reason.BAD_ENCODING),
        (b"m,host=\xc1\x81", Reason.BAD_ENCODING),
        (b"m\xff,host=a", Reason.BAD_ENCODING),
    ],
)
def test_bad_keys_are_refused_with_their_reason(key: bytes, reason: Reason) -> None:
    assert parse(key) == (reason, {})


def test_unused_tags_may_be_empty_and_hold_anything() -> None:
    assert parse(b"m,host=a,zone=,rack=\xff" + b"x" * 300)[0] == 0


def test_limits_are_those_of_limits_py() -> None:
    assert reason_of(b"m,host=" + b"a" * limits.NAME_BYTES_MAX) == 0
    tags = b"".join(b",t%d=1" % i for i in range(limits.LINE_TAGS_MAX - 1))
    assert reason_of(b"m,host=a" + tags) == 0
    assert reason_of(b"m,host=a" + tags + b",one=more") == Reason.TOO_LONG
    filler = b"m,host=a,t="
    assert reason_of(filler + b"x" * (limits.KEY_BYTES_MAX - len(filler))) == 0
    assert reason_of(filler + b"x" * (limits.KEY_BYTES_MAX - len(filler) + 1)) == Reason.TOO_LONG


@given(st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=14).map(b"".join)))
def test_any_bytes_parse_as_the_twin_says(key: bytes) -> None:
    assert parse(key) == parse_key(key)


@given(st.text(max_size=6), st.binary(max_size=4))
def test_names_are_checked_as_python_decodes_them(text: str, noise: bytes) -> None:
    name = (
        text.encode("utf-8", "surrogatepass").replace(b",", b"").replace(b" ", b"").replace(b"=", b"") + noise
    )
    key = b"m,host=a,type-id=x" + name
    assert parse(key) == parse_key(key)

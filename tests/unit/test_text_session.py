"""A text connection as a state machine: its bytes in any pieces, its effects answered by the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mstore import clock, limits
from mstore.errors import MstoreError, ProtocolError, StoreFull
from mstore.ingest.effects import NeedReferences, NeedRoom
from mstore.ingest.text import TextSession
from mstore.model import Ack, MetricSpec
from tests.ingest_rig import NOW_S, IngestRig, Stored, line


@pytest.fixture(autouse=True)
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now_s", lambda: NOW_S)


@pytest.fixture
def rig() -> Iterator[IngestRig]:
    rig = IngestRig()
    yield rig
    rig.close()


def send(rig: IngestRig, *pieces: bytes) -> TextSession:
    """A whole connection: the pieces, then the peer shuts down its sending side."""
    session = TextSession(rig.engine)
    rest = b""
    for piece in pieces:
        rest = rig.run(session.consume(rest + piece))
    assert rig.run(session.finish(rest)) == b""
    return session


HEADER = b"# mstore cluster=fritz precision=s\n"


def test_lines_are_stored_in_order_and_counted(rig: IngestRig) -> None:
    text = (
        HEADER + line("load", "a", 1) + line("load", "b", 2, NOW_S - 60) + line("load", "a", 3, NOW_S - 120)
    )
    session = send(rig, text)
    assert rig.finish() == [
        Stored("fritz/a:load", NOW_S, 1.0),
        Stored("fritz/b:load", NOW_S - 60, 2.0),
        Stored("fritz/a:load", NOW_S - 120, 3.0),
    ]
    assert session.reply(True) == b"written=3 rejected=0 ignored=0 durable=yes\n"
    assert rig.counter("written") == rig.counter("samples") == rig.counter("lines") == 3


def test_blank_lines_comments_and_cr_lf_are_no_lines_and_a_last_newline_is_not_needed(rig: IngestRig) -> None:
    text = b"\n# a comment\r\n\r\n  \t\n" + line("load,cluster=c", "a", 1).replace(b"\n", b"\r\n")
    session = send(rig, text + b"# mstore cluster=late\n" + line("load,cluster=c", "b", 2).strip())
    assert [one.value for one in rig.finish()] == [1.0, 2.0]
    assert session.reply(True).startswith(b"written=2 rejected=0 ignored=0 ")


def test_every_refused_line_is_counted_by_its_reason_and_stops_no_other(rig: IngestRig) -> None:
    lines = [
        line("load", "a", 1), b"load value=1\n", line("load", "a", "x"), b"nonsense\n",
        line("load", "a", 1, NOW_S - 49 * 3600), line("load", "a", 1, NOW_S + 3601), line("load", "a", 1, -5),
        b"load,hostname=a other=1\n", line("ops", "a", 1.5), line("load", "a", 2, NOW_S - 60),
    ]  # fmt: skip
    session = send(rig, HEADER, *lines)
    assert [one.value for one in rig.finish()] == [1.0, 2.0]
    assert session.reply(True) == (
        b"written=2 rejected=8 ignored=0 durable=yes bad_syntax=1 bad_value=1 out_of_range=1 bad_timestamp=1"
        b" unknown_field=1 no_host=1 too_late=1 too_far_ahead=1\n"
    )


def test_a_line_that_is_too_long_is_skipped_to_its_newline_over_any_number_of_pieces(rig: IngestRig) -> None:
    long = b"load,hostname=a value=" + b"1" * (3 * limits.LINE_BYTES_MAX)
    text = HEADER + line("load", "a", 1) + long + b"\n" + line("load", "a", 2, NOW_S - 60)
    session = send(rig, *(text[i : i + 1000] for i in range(0, len(text), 1000)))
    assert [one.value for one in rig.finish()] == [1.0, 2.0]
    assert session.reply(True) == b"written=2 rejected=1 ignored=0 durable=yes too_long=1\n"


def test_a_line_that_is_too_long_is_skipped_on_its_own_connection_alone(rig: IngestRig) -> None:
    first, second = TextSession(rig.engine), TextSession(rig.engine)
    assert rig.run(first.consume(HEADER + b"x" * 100_000)) == b""
    assert rig.run(second.consume(HEADER + line("load", "a", 1))) == b""
    assert rig.run(first.consume(b"x\n" + line("load", "b", 2))) == b""
    assert rig.run(second.consume(line("load", "a", 3))) == b""
    assert [one.value for one in rig.finish()] == [1.0, 2.0, 3.0]
    assert first.reply(True) == b"written=1 rejected=1 ignored=0 durable=yes too_long=1\n"
    assert second.reply(True) == b"written=2 rejected=0 ignored=0 durable=yes\n"


def test_a_line_that_is_too_long_and_never_ends_is_counted_once(rig: IngestRig) -> None:
    session = send(rig, HEADER, b"x" * 100_000, b"y" * 100_000)
    assert session.reply(True) == b"written=0 rejected=1 ignored=0 durable=yes too_long=1\n"
    assert rig.finish() == []


# --- the header line


def test_the_header_sets_cluster_precision_and_acknowledgement(rig: IngestRig) -> None:
    session = send(
        rig, b"# mstore  cluster=c\tprecision=ms ack=memory\r\n" + line("load", "a", 1, 1000 * NOW_S)
    )
    assert session.ack is Ack.MEMORY
    assert rig.finish() == [Stored("c/a:load", NOW_S, 1.0)]


def test_the_header_may_arrive_in_any_two_pieces(rig: IngestRig) -> None:
    text = HEADER + line("load", "a", 1)
    for cut in range(len(text) + 1):
        send(rig, text[:cut], text[cut:])
    assert rig.finish() == [Stored("fritz/a:load", NOW_S, 1.0)] * (len(text) + 1)


@pytest.mark.parametrize(
    "text", [b"# mstore", b"# mstore cluster=c", b"# mstore cluster=c\n", b"", b"# mst", b"#"]
)
def test_a_header_or_a_piece_of_one_is_a_whole_connection(rig: IngestRig, text: bytes) -> None:
    session = send(rig, text)
    assert session.reply(False) == b"written=0 rejected=0 ignored=0 durable=no\n"
    assert rig.finish() == []


@pytest.mark.parametrize(
    "word", [b"mstored cluster=x", b"mstore-x cluster=x", b"Mstore cluster=x", b" mstore"]
)
def test_a_comment_that_is_nearly_a_header_is_a_comment(rig: IngestRig, word: bytes) -> None:
    send(rig, b"# " + word + b"\n" + line("load,cluster=c", "a", 1))
    assert rig.finish() == [Stored("c/a:load", NOW_S, 1.0)]


@pytest.mark.parametrize(
    "word",
    [
        b"cluster=", b"cluster=" + b"c" * 256, b"cluster=a\x01b", b"cluster=a\x7fb", b"cluster=\xff",
        "cluster=a\x85b".encode(), b"precision=h", b"precision=auto", b"ack=none", b"ack", b"colour=red",
    ],
)  # fmt: skip
def test_a_header_with_anything_else_is_refused_before_a_line_is_stored(rig: IngestRig, word: bytes) -> None:
    session = TextSession(rig.engine)
    with pytest.raises(ProtocolError, match="in the header line"):
        rig.run(session.consume(b"# mstore " + word + b"\n" + line("load,cluster=c", "a", 1)))
    assert rig.finish() == []


def test_a_cluster_name_is_one_word_however_it_looks(rig: IngestRig) -> None:
    name = "große\u00a0maschine\u3000=2"
    send(rig, f"# mstore cluster={name}\n".encode() + line("load", "a", 1))
    assert rig.finish() == [Stored(f"{name}/a:load", NOW_S, 1.0)]


def test_a_header_longer_than_a_key_may_be_is_refused_though_it_never_ends(rig: IngestRig) -> None:
    session = TextSession(rig.engine)
    with pytest.raises(ProtocolError, match="longer than"):
        rig.run(session.consume(b"# mstore " + b" " * limits.KEY_BYTES_MAX))


def test_a_line_without_cluster_needs_a_default(rig: IngestRig) -> None:
    session = send(rig, line("load", "a", 1) + line("load,cluster=own", "a", 2))
    assert rig.finish() == [Stored("own/a:load", NOW_S, 2.0)]
    assert session.reply(True).endswith(b"no_cluster=1\n")


def test_the_same_line_belongs_to_the_default_cluster_of_its_connection(rig: IngestRig) -> None:
    for _ in range(3):  # keys unknown, known, and predicted
        for name in (b"c1", b"c2"):
            send(rig, b"# mstore cluster=" + name + b"\n" + line("load", "a", 1) + line("load", "b", 2))
    names = [one.name for one in rig.finish()]
    assert names == ["c1/a:load", "c1/b:load", "c2/a:load", "c2/b:load"] * 3


# --- effects


def test_the_shared_buffer_may_be_overwritten_as_soon_as_the_session_waits(rig: IngestRig) -> None:
    buffer = bytearray(1 << 16)
    text = HEADER + b"".join(line("load", f"h{i}", i) for i in range(50)) + b"load,hostname=unfini"
    buffer[: len(text)] = text

    def scribble(_effect: object) -> None:
        buffer[:] = b"!" * len(buffer)

    session = TextSession(rig.engine)
    rest = rig.run(session.consume(memoryview(buffer)[: len(text)]), before=scribble)
    assert [type(effect) for effect in rig.effects] == [NeedReferences]
    assert rest == b"load,hostname=unfini"
    rig.run(session.finish(rest + line("load", "shed", 7).partition(b"=")[2]))
    assert [(one.name, one.value) for one in rig.finish()] == [
        *((f"fritz/h{i}:load", float(i)) for i in range(50)),
        ("fritz/unfinished:load", 7.0),
    ]


def test_known_lines_are_copied_before_the_session_waits_for_room() -> None:
    rig = IngestRig(ring_bytes=4096)
    text = HEADER + b"".join(line("load", f"h{i}", i, NOW_S - 60 * i) for i in range(500))
    send(rig, text)
    buffer = bytearray(text + b"load,hostname=unfini")

    def scribble(effect: object) -> None:
        assert isinstance(effect, NeedRoom)
        buffer[:] = b"!" * len(buffer)

    rig.drain()
    expected, rig.stored = rig.stored, []
    session = TextSession(rig.engine)
    assert rig.run(session.consume(memoryview(buffer)), before=scribble) == b"load,hostname=unfini"
    assert rig.finish() == expected
    assert len(expected) == 500
    assert rig.counter("written") == 1000
    rig.close()


def test_a_ring_that_is_full_in_the_middle_of_a_batch_loses_and_duplicates_nothing() -> None:
    rig = IngestRig(ring_bytes=1024)
    lines = [line("flops", f"h{i % 7}", i, NOW_S - 60 * (i // 7)) for i in range(300)]
    session = send(rig, HEADER, b"".join(lines[:200]), b"".join(lines[200:]))
    assert [one.value for one in rig.finish()] == [float(i) for i in range(300)]
    assert session.reply(True).startswith(b"written=300 rejected=0 ")
    assert sum(isinstance(effect, NeedRoom) for effect in rig.effects) >= 3
    assert rig.counter("written") == rig.counter("samples") == 300
    rig.close()


def test_what_is_in_the_ring_is_published_before_the_session_waits_for_room() -> None:
    rig = IngestRig(ring_bytes=1024)
    steps = TextSession(rig.engine).consume(
        HEADER + b"".join(line("load", f"h{i}", i, NOW_S - 60 * i) for i in range(99))
    )
    rig.run_until(steps, NeedRoom)
    assert rig.reader.head() == rig.engine.ring.position()
    assert rig.bells == 1
    steps.close()
    rig.finish()
    rig.close()


def test_a_batch_is_resolved_whole_before_any_of_it_is_published(rig: IngestRig) -> None:
    send(rig, HEADER, line("load", "known", 1))
    steps = TextSession(rig.engine).consume(HEADER + line("load", "known", 2) + line("load", "new", 3))
    rig.run_until(steps, NeedReferences)
    assert rig.engine.ring.position() == rig.engine.ring.head()
    assert rig.slot.epoch % 2 == 1, "references are in hand"
    rig.run_on(steps)
    assert [one.value for one in rig.finish()] == [1.0, 2.0, 3.0]


def test_sessions_that_wait_do_not_hold_each_other_up_nor_mix_their_lines(rig: IngestRig) -> None:
    texts = [
        HEADER.replace(b"fritz", b"c%d" % i) + b"".join(line("load", f"h{k}", k) for k in range(20))
        for i in range(3)
    ]
    sessions = [TextSession(rig.engine) for _ in texts]
    waiting = [session.consume(text) for session, text in zip(sessions, texts, strict=True)]
    for steps in waiting:
        rig.run_until(steps, NeedReferences)
    for steps in reversed(waiting):
        rig.run_on(steps)
    assert [one.name.split("/")[0] for one in rig.finish()] == ["c2"] * 20 + ["c1"] * 20 + ["c0"] * 20
    assert all(session.reply(True).startswith(b"written=20 ") for session in sessions)


def test_a_session_given_up_while_it_waits_releases_everything(rig: IngestRig) -> None:
    steps = TextSession(rig.engine).consume(HEADER + line("load", "a", 1))
    rig.run_until(steps, NeedReferences)
    steps.close()
    assert rig.finish() == []
    send(rig, HEADER, line("load", "b", 2))
    assert rig.finish() == [Stored("fritz/b:load", NOW_S, 2.0)]


def test_more_lines_than_a_batch_holds_are_asked_about_batch_by_batch(rig: IngestRig) -> None:
    n = limits.BATCH_LINES_MAX + 100
    text = HEADER + b"".join(line("load", f"h{i % 1500}", i) for i in range(n))
    session = send(rig, text)
    assert [one.value for one in rig.finish()] == [float(i) for i in range(n)]
    assert session.reply(True).startswith(b"written=%d " % n)
    assert rig.counter("lines") == n
    assert rig.counter("batches") == 2


# --- unknown metrics, a full store


def test_ignored_lines_are_asked_about_again_with_the_next_configuration() -> None:
    rig = IngestRig(register=False)
    text = HEADER + line("load", "a", 1) + line("ops", "a", 2)
    session = send(rig, text, text)
    assert session.reply(True) == b"written=2 rejected=0 ignored=2 durable=yes unknown_metric=2\n"
    asked = [effect.keys for effect in rig.effects if isinstance(effect, NeedReferences)]
    assert asked == [b"load,hostname=aops,hostname=a"]
    rig.set_policy(True, 2)
    session = send(rig, text, text)
    assert session.reply(True) == b"written=4 rejected=0 ignored=0 durable=yes\n"
    asked = [effect.keys for effect in rig.effects if isinstance(effect, NeedReferences)]
    assert asked[1:] == [b"load,hostname=a"]
    assert [one.value for one in rig.finish()] == [2.0, 2.0, 1.0, 2.0, 1.0, 2.0]
    assert rig.counter("ignored") == 2
    rig.close()


def test_beyond_max_series_lines_are_refused_and_those_of_known_series_stored() -> None:
    rig = IngestRig(max_series=3)
    text = HEADER + b"".join(line("load", f"h{i}", i) for i in range(5))
    session = send(rig, text, text)
    assert session.reply(True) == b"written=6 rejected=4 ignored=0 durable=yes series_limit=4\n"
    assert [one.value for one in rig.finish()] == [0.0, 1.0, 2.0] * 2
    rig.close()


def test_a_full_store_refuses_what_arrives_and_counts_it(rig: IngestRig) -> None:
    send(rig, HEADER, line("load", "a", 1))
    rig.is_full = True
    session = send(rig, HEADER, line("load", "a", 2) + line("load", "a", "x") + line("load", "b", 3))
    assert session.reply(True) == b"written=0 rejected=3 ignored=0 durable=yes bad_value=1 store_full=2\n"
    assert [one.value for one in rig.finish()] == [1.0]
    assert rig.counter("samples") == 1
    assert rig.counter("rejected_store_full") == 2
    rig.is_full = False
    send(rig, HEADER, line("load", "a", 4))
    assert [one.value for one in rig.finish()] == [1.0, 4.0]


def test_a_directory_without_room_refuses_the_new_series_and_stores_the_others(rig: IngestRig) -> None:
    send(rig, HEADER, line("load", "a", 1))
    session = TextSession(rig.engine)
    steps = session.consume(
        HEADER + line("load", "a", 2) + line("load", "new", 3) + line("load", "a", 4, NOW_S - 60)
    )
    rig.run_until(steps, NeedReferences)
    with pytest.raises(StopIteration):
        steps.throw(StoreFull("no room for another level"))
    assert [one.value for one in rig.finish()] == [1.0, 2.0, 4.0]
    assert session.reply(True) == b"written=2 rejected=1 ignored=0 durable=yes store_full=1\n"


def test_another_error_of_the_persister_ends_the_connection_and_stores_nothing_of_the_batch(
    rig: IngestRig,
) -> None:
    session = TextSession(rig.engine)
    steps = session.consume(HEADER + line("load", "a", 1))
    rig.run_until(steps, NeedReferences)
    broken = MstoreError("the persister is broken")
    with pytest.raises(MstoreError, match="broken"):
        steps.throw(broken)
    assert rig.finish() == []
    assert session.error_reply(broken, True) == b"error=error the persister is broken\n"


def test_an_error_after_a_first_batch_leaves_that_batch_stored_whole(rig: IngestRig) -> None:
    n = limits.BATCH_LINES_MAX
    text = HEADER + b"".join(line("load", "a", i, NOW_S - i) for i in range(n)) + line("load", "b", 1)
    session = TextSession(rig.engine)
    rig.run(session.consume(text[: len(HEADER) + len(line("load", "a", 0))]))
    steps = session.consume(text[len(HEADER) :])
    rig.run_until(steps, NeedReferences)
    broken = MstoreError("the persister is broken")
    with pytest.raises(MstoreError, match="broken"):
        steps.throw(broken)
    assert len(rig.finish()) == n + 1
    said = b"error=error written=%d rejected=0 ignored=0 durable=yes the persister is broken\n" % (n + 1)
    assert session.error_reply(broken, True) == said


# --- times


def test_lines_without_a_time_get_that_of_their_arrival(rig: IngestRig) -> None:
    send(rig, HEADER, line("load", "a", 1, None))
    assert rig.finish() == [Stored("fritz/a:load", NOW_S, 1.0)]


def test_stamped_series_keep_their_milliseconds(rig: IngestRig) -> None:
    send(rig, b"# mstore cluster=c precision=ms\n" + line("beat", "a", "7i", 1000 * NOW_S - 1) * 2)
    assert rig.finish() == [Stored("c/a:beat", 1000 * NOW_S - 1, (7,))] * 2


def test_without_retention_a_series_reaches_as_far_back_as_its_links_and_no_further() -> None:
    """What is older would be acknowledged, and then have no place beside the newest sample of its series."""
    rig = IngestRig(retention_s=0)
    newest = NOW_S + 3600
    oldest = newest - 60 * limits.SERIES_SLOTS_MAX
    times = (oldest, newest, oldest - 1, 0, NOW_S)
    text = b"".join(line("load", "a", i, t) for i, t in enumerate(times))
    beats = b"# mstore cluster=c precision=ms\n" + line("beat", "a", "7i", 1)
    for _ in range(2):
        session = send(rig, HEADER, text)
        assert session.reply(True) == b"written=3 rejected=2 ignored=0 durable=yes too_late=2\n"
        assert [one.t for one in rig.finish()] == [oldest, newest, NOW_S]
        rig.stored.clear()
    assert send(rig, beats).reply(True).startswith(b"written=1 "), "rows have their own times and no reach"
    rig.close()


OWN = {
    "short": MetricSpec("short", retention_s=3600),
    "kept": MetricSpec("kept", retention_s=0),
    "pulse": MetricSpec("pulse", 0, "none", "u64", retention_s=3600),
}


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_sample_is_too_late_by_its_own_metrics_retention(rounds: int) -> None:
    rig = IngestRig(retention_s=7200, specs=OWN)
    back = (3600, 3601, 7200, 7201, 10**9)
    text = b"".join(line(name, "a", 1, NOW_S - s) for name in ("short", "load", "kept") for s in back)
    text += b"".join(line("pulse", "a", "1i", NOW_S - s) for s in back)
    for _ in range(rounds):  # the second time all keys are known
        rig.stored.clear()
        session = send(rig, HEADER, text)
        assert session.reply(True) == b"written=10 rejected=10 ignored=0 durable=yes too_late=10\n"
        found = [(one.name.partition(":")[2], one.t) for one in rig.finish()]
        assert found == [
            ("short", NOW_S - 3600), *(("load", NOW_S - s) for s in back[:3]),
            *(("kept", NOW_S - s) for s in back), ("pulse", 1000 * (NOW_S - 3600)),
        ]  # fmt: skip
    rig.close()


def test_a_line_is_written_if_one_of_its_metrics_still_keeps_its_time() -> None:
    rig = IngestRig(join=True, specs={"cpu_user": OWN["short"], "cpu_system": OWN["kept"]})
    session = send(
        rig, HEADER, b"cpu,hostname=a user=1,system=2 %d\ncpu,hostname=a user=3 0\n" % (NOW_S - 3601)
    )
    assert session.reply(True) == b"written=1 rejected=1 ignored=0 durable=yes too_late=1\n"
    assert [(one.name, one.value) for one in rig.finish()] == [("fritz/a:cpu_system", 2.0)]
    rig.close()


def test_every_field_is_a_metric_when_the_configuration_says_so() -> None:
    rig = IngestRig(join=True)
    session = send(rig, HEADER, b'cpu,hostname=a user=1,system=2i,name="x" %d\n' % NOW_S)
    assert [(one.name, one.value) for one in rig.finish()] == [
        ("fritz/a:cpu_user", 1.0),
        ("fritz/a:cpu_system", 2.0),
    ]
    assert session.reply(True) == b"written=1 rejected=0 ignored=0 durable=yes\n"
    rig.close()


def test_the_reply_waits_for_the_last_position_of_this_connection(rig: IngestRig) -> None:
    first, second = TextSession(rig.engine), TextSession(rig.engine)
    rig.run(first.consume(HEADER + line("load", "a", 1)))
    position = rig.engine.ring.head()
    rig.run(second.consume(HEADER + line("load", "b", 2)))
    assert first.position == position < second.position == rig.engine.ring.head()
    assert len(rig.finish()) == 2

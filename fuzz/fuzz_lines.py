"""Random text through the line kernels and their twin in lockstep: any difference is a bug.

    python fuzz/fuzz_lines.py [--seed N] [--rounds N] [--seconds S]

Every round prints nothing; a failure prints its seed and the text. The same Lockstep drives tests/property.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mstore.kernels._lines import LineBatch, LineScanner
from mstore.kernels._ring import RingReader, RingWriter, create_ring_words, record_length
from mstore.kernels._segment import Segment
from mstore.kernels.reference_eras import Era, latest_change
from mstore.kernels.reference_lines import ReferenceBatch, Target, build_directory
from mstore.shm import layout

RING_BYTES = 1 << 20
DIRECTORY_BYTES = 1 << 19
NOW_S = 1_725_827_464
CONFIG_VERSION = 7
UNPUBLISHED = CONFIG_VERSION << 32 | layout.IGNORE_SLOT


class Lockstep:
    """One connection's text, fed in pieces to both; whenever a batch ends, everything they say is compared.

    Unknown keys are answered by a deterministic function of their bytes, and known from then on. Some get an
    ignore word of another configuration version, or one without a reason, so that they are asked for again.
    With kept_s every other series refuses what is older.
    """

    def __init__(
        self,
        max_lines: int = 8192,
        *,
        precision: int = 0,
        join: bool = False,
        cluster_id: int = 0,
        ring_bytes: int = RING_BYTES,
        back_s: int = 10**6,
        kept_s: int = 0,
    ) -> None:
        self.cluster_id = cluster_id
        self.kept_s = kept_s
        self.arguments: dict[str, Any] = {
            "cluster_id": cluster_id, "precision": precision, "now_s": NOW_S, "oldest_s": NOW_S - back_s,
            "newest_s": NOW_S + 3600, "config_version": CONFIG_VERSION, "join": join,
        }  # fmt: skip
        self.known: dict[tuple[bytes, int], Target] = {}
        self.others: list[Target] = []
        """Series of keys that are to be asked for again."""
        self.memory = bytearray(DIRECTORY_BYTES)
        self.directory = Segment(self.memory)
        self.scanner = LineScanner(self.directory)
        self.batch, self.twin = LineBatch(max_lines), ReferenceBatch(max_lines)
        self.ring = Segment(bytearray(layout.RING_DATA + ring_bytes), writable=True)
        create_ring_words(self.ring, ring_bytes)
        self.writer, self.reader = RingWriter(self.ring), RingReader(self.ring)
        self.run_values_max = 8192 if ring_bytes // 4 >= 8192 * 16 else ring_bytes // 64
        self.pending = b""
        self.written = self.agreed = 0
        self.next_slot = 1
        self.publish()

    def publish(self) -> None:
        """Make the known keys visible; entries keep their places, also those of keys asked for again."""
        segment = build_directory(layout, self.known, others=self.others)
        self.memory[: len(segment)] = segment
        self.twin.changed_s = latest_change(one.chain for one in (*self.known.values(), *self.others))

    def feed(self, data: bytes, *, final: bool = False) -> None:
        """Scan the pending bytes and `data` until no more can be consumed."""
        self.pending += data
        while True:
            text = self.pending
            at = self.batch_scan(text, final)
            self.pending = text[at:]
            if at == 0 or (not self.pending):
                break
        if final:
            self.finish_batch()
            assert self.pending == b""

    def batch_scan(self, text: bytes, final: bool) -> int:
        at = self.scanner.scan(self.batch, text, 0, len(text), final=final, **self.arguments)
        expected = self.twin.scan(self.known, text, 0, len(text), final=final, **self.arguments)
        assert at == expected, (at, expected)
        assert self.batch.n_lines == self.twin.n_lines
        assert self.batch.skipping == self.twin.skipping
        assert self.batch.unknown() == self.twin.unknown()
        full = at < len(text) and self.batch.n_lines > 0
        if full:
            self.finish_batch()
            return at or self.batch_scan(text, final)
        return at

    def finish_batch(self) -> None:
        keys, offsets, _ = self.batch.unknown()
        bounds = np.frombuffer(offsets, dtype=np.int64)
        names = [keys[a:b] for a, b in itertools.pairwise(bounds)]
        assert len(set(names)) == len(names) == self.batch.n_unknown
        answers = [self.answer(name) for name in names]
        refs = np.array([target.ref for target in answers], dtype=np.uint64).tobytes()
        types, kinds = bytes(target.type for target in answers), bytes(target.kind for target in answers)
        steps = np.array([target.step_s for target in answers], dtype="<u4").tobytes()
        if names:
            self.publish()
        self.batch.resolve(self.directory, refs, types, kinds, steps)
        self.twin.resolve(answers)
        assert self.batch.n_unknown == 0
        self.refuse_late()
        assert self.batch.counts().tolist() == self.twin.counts().tolist()
        assert int(self.batch.counts().sum()) == self.batch.n_lines
        assert self.batch.n_samples == self.twin.n_samples
        self.compare_records()
        self.written += self.batch.n_samples
        self.agreed += self.batch.n_lines
        self.batch.clear()
        self.twin.clear()

    def refuse_late(self) -> None:
        """Refuse the samples of every other series that are older than kept_s, if that is given."""
        if not self.kept_s:
            return
        found, expected = (side.late(NOW_S - self.kept_s) for side in (self.batch, self.twin))
        for mine, other in zip(found, expected, strict=True):
            assert mine.tolist() == other.tolist()
        places = found[0][found[1] % 2 == 0]
        for side in (self.batch, self.twin):
            side.refuse(places)

    def compare_records(self) -> None:
        found: list[bytes] = []
        while not self.batch.encode(self.writer):
            found.append(self.drain())
        found.append(self.drain())
        assert b"".join(found) == b"".join(self.twin.encode(self.run_values_max))

    def drain(self) -> bytes:
        """All published records, PADs left out; the ring is empty afterwards."""
        start, stop = self.reader.drained(), self.writer.publish()
        self.reader.validate(start, stop)
        found = []
        while start < stop:
            view = bytes(self.reader.view(start, RING_BYTES))
            start += len(view)
            found.append(without_pad(view))
        self.reader.set_drained(stop)
        self.reader.set_durable(stop)
        return b"".join(found)

    def answer(self, key: bytes) -> Target:
        dice = zlib.crc32(key)
        kind, type_ = (2, 1 + dice % 3) if dice % 7 == 0 else (1, 1 + dice % 3)
        if dice % 53 == 0:
            type_ = 0  # rows of several columns
        step_s = (1, 60, 3600)[dice % 3] if kind == 1 else 0
        ref = (1 + dice % 3) << 32 | self.next_slot
        self.next_slot += 1 + (dice % 5 == 0)
        start_s, older = self.eras(dice) if kind == 1 and dice % 5 < 2 else (-(1 << 63), ())
        if dice % 11 == 1:
            version = CONFIG_VERSION + (dice % 2)
            ref = (9 << 24 | version) << 32 | layout.IGNORE_SLOT
            start_s, older = -(1 << 63), ()  # no series, no eras
        if dice % 17 == 1:
            self.known[key, 0 if b"cluster=" in key else self.cluster_id] = Target(UNPUBLISHED)
            self.others.append(Target(ref, type_, kind, step_s, start_s, older))
            return self.others[-1]
        target = Target(ref, type_, kind, step_s, start_s, older)
        cluster = 0 if b"cluster=" in key else self.cluster_id
        self.known[key, cluster] = target
        return target

    @staticmethod
    def eras(dice: int) -> tuple[int, tuple[Era, ...]]:
        """When the newest era of a series began, and those before: borders between the stamps that lines have."""
        older = (
            Era(1 + dice % 3, (1, 60)[dice % 2], NOW_S - 10**6, going=dice % 4 == 0),
            Era(1 + dice // 3 % 3, (60, 1, 3600)[dice % 3], going=dice % 4 == 1),
        )
        return NOW_S + (30 if dice % 9 < 3 else -30), older[: 1 + dice // 7 % 2]


def without_pad(records: bytes) -> bytes:
    """Cut the PAD at the end off (records are walked, since a PAD's bytes say nothing by themselves)."""
    at = 0
    while at < len(records):
        if int.from_bytes(records[at : at + 2], "little") == layout.REC_PAD:
            return records[:at]
        at += record_length(records[at:])
    return records


# ---- text ----

KEYS = (
    "cpu_load,cluster=alex,hostname=a0603,type=node",
    "cpu_user,cluster=alex,hostname=a0603,type=hwthread,type-id=12,unit=Percent",
    "net,hostname=f0201,stype=network,stype-id=enp1s0,type=node", r"a\,b\ c\=d,host=x\ y,tag\==\,v",
    "nohost,cluster=alex", "empty,host=a,type=", "unused,host=a,zone=", "x,host=a,host=b,hostname=",
    "é,host=ü", "bad\x01,host=a", "open,host", ",host=a", r"q\,host=a", r"q\\,host=a", "log,hostname=a,",
    "m,host=a=b",
)  # fmt: skip
FIELDS = (
    "value=1.5", "value=0", "value=-0", "value=-0i", "value=4i", "value=18446744073709551614u",
    "value=18446744073709551615u", "value=1e3", "value=1.5e-7", "value=123456789.123456789",
    "value=0.1234567890123456789012345", "value=1e400", "value=3.5e38", "value=+7", "value=.5",
    "value=5.", "value=.", "value=", "value", "=1", "value=true", "value=NaN", "value=-5u",
    "value=9223372036854775808i", 'value="a b,c=\\"d\\""', 'value="open', 'value="x"y', "other=1",
    "value=1,value=2.25", "value=1,other=2", 'event="x\\\\",value=3', "value=1,", "a=1i,b=2.5,c=t",
    r"f\=g=1,f\ h=2,f\,i=3", "value=12345678", "value=1234567i", "value=99999999999999999999",
    "value=-12.5", "value=1..5",
)  # fmt: skip
STAMPS = (
    "", f" {NOW_S}", f" {NOW_S}", f" {NOW_S - 60}", f" {NOW_S}123", f" {NOW_S}123456",
    f" {NOW_S}123456789", " 12ab", " -5", " 1", f" {NOW_S} x", f"  {NOW_S}  ", f" {NOW_S + 10**5}",
    " 99999999999999999999", f" {NOW_S}0", " 0", f" {NOW_S - 2 * 10**6}",
    f" {NOW_S - 2 * 10**7}", f" {NOW_S - 2 * 10**7}",
)  # fmt: skip
ENDS = ("\n", "\n", "\n", "\n", "\r\n", "\n\n", "\n \t\n", "\n# a comment\n", " \n", "\r\r\n")


def random_line(rng: random.Random) -> bytes:
    # Each part is mostly right, so that something odd often stands in a line that is otherwise plain.
    key = rng.choice(KEYS[:4] if rng.random() < 0.85 else KEYS)
    field = f"value={rng.randrange(10**6) / 10 ** rng.randrange(5)}"
    if rng.random() < 0.2:
        field = rng.choice(FIELDS)
    stamp = rng.choice(STAMPS) if rng.random() < 0.15 else f" {NOW_S}"
    end = rng.choice(ENDS) if rng.random() < 0.15 else "\n"
    line = bytearray(f"{key} {field}{stamp}{end}".encode())
    if rng.random() < 0.05:
        line[rng.randrange(len(line))] = rng.randrange(256)
    if rng.random() < 0.01:
        line[:0] = rng.choice((b"x", b"x", b"#", b" ")) * rng.choice((8180, 65440, 70000))
    return bytes(line)


def random_pieces(rng: random.Random, text: bytes) -> Sequence[bytes]:
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(4)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def one_round(seed: int) -> int:
    """One random text in random pieces; how many lines both agreed on."""
    rng = random.Random(seed)
    lockstep = Lockstep(
        rng.choice((1, 3, 50, 8192)), precision=rng.choice((0, 0, 1, 2, 3, 4)), join=rng.random() < 0.3,
        cluster_id=rng.choice((0, 5)), ring_bytes=rng.choice((1024, 4096, RING_BYTES)),
        back_s=rng.choice((10**6, 2 * 10**9)), kept_s=rng.choice((0, 5, 10**5)),
    )  # fmt: skip
    lines = [random_line(rng) for _ in range(rng.randrange(1, 120))]
    text = b"".join(lines * rng.choice((1, 1, 3)))
    try:
        for piece in random_pieces(rng, text):
            lockstep.feed(piece)
        lockstep.feed(b"", final=True)
    except BaseException:
        print(f"seed {seed}: {text!r}", file=sys.stderr)
        raise
    return lockstep.agreed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    chosen = parser.parse_args()
    until = time.monotonic() + chosen.seconds
    done = lines = 0
    while done < chosen.rounds and time.monotonic() < until:
        lines += one_round(chosen.seed + done)
        done += 1
    print(f"{done} rounds from seed {chosen.seed}, {lines} lines: no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main())

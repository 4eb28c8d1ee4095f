"""`mstore write`: line protocol from a file or a pipe into the store."""

from __future__ import annotations

import argparse
import gzip
import os
import zlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, cast

from mstore import clock, limits
from mstore.cli import common, progress, render, streams

if TYPE_CHECKING:
    from mstore.client.results import WriteResult

# The client sends a block as a window of frames: large enough to keep the store busy, small enough that the
# progress bar moves.
BLOCK_BYTES = 8 * limits.MIB


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "write",
        "store lines of line protocol from a file or from standard input",
        "mstore write metrics.lp\n"
        "zcat old.lp.gz | mstore write - --cluster fritz\n"
        "echo 'cpu_load,cluster=fritz,hostname=f0101 value=1.5' | mstore write -",
        "A line is MEASUREMENT,TAG=VALUE,... value=NUMBER [TIMESTAMP]. Lines that cannot be stored are\n"
        "counted by reason and do not stop the others; the status is 1 if there were any. Files that end\n"
        "in .gz are decompressed.",
    )
    parser.add_argument("file", metavar="FILE", help="file name, or - for standard input")
    parser.add_argument("--cluster", metavar="NAME", help="cluster of lines without a cluster tag")
    parser.add_argument(
        "--precision",
        choices=("auto", "s", "ms", "us", "ns"),
        help="unit of the timestamps (default: by their size)",
    )
    parser.add_argument(
        "--ack",
        choices=("durable", "memory"),
        default="durable",
        help="what to wait for (default: durable = on disk)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from mstore.client.results import WriteResult

    stream, n_total = _open(args.file)
    result, n_bytes, under_way = WriteResult(), 0, b""
    interrupt: KeyboardInterrupt | None = None
    damage: Exception | None = None
    start = clock.monotonic_s()
    bar = progress.bar(n_total, "lines", start, on=not args.quiet)
    with stream, common.open_client(args, ack=args.ack) as client:
        try:
            for block in blocks(stream):
                under_way = block
                result += client.write(block, cluster=args.cluster, precision=args.precision)
                under_way = b""
                n_bytes += len(block)
                bar.update(n_bytes, n_lines(result), clock.monotonic_s())
        except KeyboardInterrupt as caught:
            interrupt = caught
        except (EOFError, zlib.error, gzip.BadGzipFile) as caught:
            damage = caught
        finally:
            bar.clear()
    if not args.quiet:
        for line in summary(result, n_bytes, clock.monotonic_s() - start):
            print(line)
        if under_way:
            print(unacknowledged(under_way))
    if interrupt is not None:
        raise interrupt
    if damage is not None:
        streams.complain(
            f"mstore: {args.file} is cut short or damaged: {damage}; what stood before that was sent"
        )
    return 1 if result.rejected or damage is not None else 0


def n_lines(result: WriteResult) -> int:
    return result.written + result.rejected + result.ignored


def summary(result: WriteResult, n_bytes: int, seconds: float) -> list[str]:
    """How much was written and how fast; then what was not, the most frequent reason first."""
    per_s = 1 / max(seconds, 1e-9)
    n_sent = n_lines(result)
    speed = f"{render.si(n_sent * per_s)} lines/s, {render.size(n_bytes * per_s)}/s"
    if result.written == n_sent:
        lines = [f"{render.count(result.written, 'line')} written in {seconds:.2f} s ({speed})"]
    else:  # the speed is that of all lines: what is refused was sent and looked at, too
        of = f"{result.written:,} of {render.count(n_sent, 'line')}"
        lines = [f"{of} written; all sent in {seconds:.2f} s ({speed})"]
    if result.rejected or result.ignored:
        what = ((result.rejected, "rejected"), (result.ignored, "ignored"))
        reasons = sorted(result.reasons.items(), key=lambda item: (-item[1], item[0]))
        told = ", ".join(f"{reason} {n:,}" for reason, n in reasons)
        lines.append(f"{' and '.join(f'{n:,} {word}' for n, word in what if n)}: {told}")
    return lines


def unacknowledged(block: bytes) -> str:
    """What an interruption leaves open: of this block some lines may be stored, all of them or none."""
    n = block.count(b"\n") + (not block.endswith(b"\n"))
    return (
        f"{render.count(n, 'more line')} sent and not acknowledged: perhaps stored; sending lines with a time"
        " again is safe"
    )


def blocks(stream: IO[bytes], block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Whole lines of a stream in blocks of about block_bytes; the last line may lack its newline.

    A line longer than any store accepts is cut just beyond that length: it is refused (too_long) without
    being held in memory.
    """
    rest = b""
    while chunk := _read(stream, block_bytes):
        rest += chunk
        end = rest.rfind(b"\n") + 1
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > limits.LINE_BYTES_MAX:
            yield rest[: limits.LINE_BYTES_MAX + 1] + b"\n"
            rest = _after_newline(stream, block_bytes)
    if rest:
        yield rest


def _after_newline(stream: IO[bytes], block_bytes: int) -> bytes:
    """Skip to the end of the present line; what was already read of the next one."""
    while chunk := _read(stream, block_bytes):
        _, newline, rest = chunk.partition(b"\n")
        if newline:
            return rest
    return b""


def _read(stream: IO[bytes], n_bytes: int) -> bytes:
    # read1 returns what a pipe has now and does not wait for a whole block: `tail -f | mstore write -` works.
    read = getattr(stream, "read1", stream.read)
    found: bytes = read(n_bytes)
    return found


def _open(name: str) -> tuple[IO[bytes], int | None]:
    """A binary stream and its size in bytes, None when that is not known."""
    if name == "-":
        return streams.standard_input(), None
    if name.endswith(".gz"):
        return cast("IO[bytes]", gzip.open(name, "rb")), None
    stream = open(name, "rb")  # noqa: SIM115  (the caller closes it)
    return stream, os.fstat(stream.fileno()).st_size or None

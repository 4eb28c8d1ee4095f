"""The helper of a query worker that reads the archive: `python -m mstore.workers.archive_reader JOB`.

    query worker  --frames of the protocol--> standard input    one question at a time, answered over memory and archive
                  <---------- frames --------- standard output   first Done: it is ready; then each answer, or its error

It ends when its standard input does, or is killed when nobody wants the answer any more: it holds nothing but mappings
to read. What it costs, memory for the rows of a question and pyarrow, is not the worker's and goes when it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import BinaryIO

from mstore import clock, limits
from mstore.attach import attach
from mstore.errors import ArchiveError, MstoreError, UnknownMessage
from mstore.ipc import failure, framing
from mstore.ipc import messages as m
from mstore.log import set_up_logging
from mstore.query.budget import Budget, finished
from mstore.query.reader import Reader
from mstore.workers import stacks
from mstore.workers.process import EXIT_FAILED, die_with_parent, ignore_signals, set_name
from mstore.workers.sample_answers import Answer, answers

_NICE = 5
"""Questions of what is in memory come first on a busy machine."""
_READ_BYTES = 64 << 10


def serve(reader: Reader, source: BinaryIO, target: BinaryIO) -> None:
    """Answer questions until there are no more."""
    known = answers(reader, clock.now_s)
    with contextlib.suppress(ArchiveError):  # without pyarrow every answer says so
        import mstore.archive.overlay  # noqa: F401  (what takes longest is loaded before it is ready)
    target.write(m.encode(m.Done()))
    target.flush()
    decoder = framing.FrameDecoder(limits.FRAME_BYTES_MAX, m.TAGS)
    while content := source.read(_READ_BYTES):
        for frame in decoder.feed(content):
            message = m.decode_frame(frame)
            reply = _answer(known.get(type(message)), message)
            for part in m.encode_parts(reply, frame.request_id):
                target.write(part)
            target.flush()


def _answer(answer: Answer | None, message: m.Message) -> m.Message:
    try:
        if answer is None:
            raise UnknownMessage(f"{type(message).__name__} is no question to the archive")
        found = answer(message, Budget())
        return found if isinstance(found, m.Message) else finished(found)
    except Exception as error:
        return failure.reply_to(message, error, "the reader of the archive")


def main() -> int:
    job = json.loads(sys.argv[1])
    die_with_parent(job["parent_pid"])
    ignore_signals()
    name = f"archive-{job['index']}"
    set_name(f"mstore:{name}")
    set_up_logging(name)
    stacks.register(Path(job["store_dir"]), name, job["lock_inode"])
    os.nice(_NICE)
    # What a library prints must not come between the frames.
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        with attach(job["store_dir"]) as reader, os.fdopen(answers, "wb") as target:
            if reader.instance != job["instance"]:
                return EXIT_FAILED  # the store was started again: so will be the worker
            serve(reader, os.fdopen(0, "rb", 0), target)
    except (MstoreError, BrokenPipeError) as error:
        print(f"the reader of the archive ends: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A helper process: one job in JSON as its argument, lines of JSON about it on standard output, then it ends.

asks  --JOB-->  python -m MODULE JOB      {"share": 0.31, ...} now and then, at the end {"done": {...}} or
      <-lines-                            {"failed": "why"}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

from mstore.errors import StorageError

_LINE_BYTES_MAX = 1 << 20


class Helper:
    """One run. `name` is what its failure is told by: "the export helper failed: ..."."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name
        self._process: asyncio.subprocess.Process | None = None
        self._killed = False

    async def run(
        self, job: dict[str, Any], told: Callable[[dict[str, Any]], None], pass_fds: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        """What it was `done` with; `told` is given every other line. pass_fds: inherited under the same numbers.

        raises StorageError when it failed, was killed, or said nothing
        """
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # as for every child: nothing is imported from the directory the operator happens to stand in
            "-m",
            self._module,
            json.dumps(job),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=pass_fds,
            start_new_session=True,  # out of the terminal's group: Ctrl-C is for the store to see
            limit=_LINE_BYTES_MAX,
        )
        if self._killed:
            self.kill()
        last: dict[str, Any] = {}
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                last = json.loads(line)
                if not last.keys() & {"done", "failed"}:
                    told(last)
        except BaseException:
            self.kill()  # nobody listens to it any more, and the next one must not write beside it
            await self._process.wait()
            raise
        status = await self._process.wait()
        if "done" in last and status == 0:
            found: dict[str, Any] = last["done"]
            return found
        raise StorageError(f"{self._name} failed: {last.get('failed') or f'it ended with status {status}'}")

    def kill(self) -> None:
        """End it, also when it is only just starting."""
        self._killed = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

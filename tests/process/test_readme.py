"""README.md's examples, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.stores import Server

TEXT = (Path(__file__).parents[2] / "README.md").read_text()
Serve = Callable[..., Server]


def test_the_python_examples_run_one_after_the_other_and_find_what_they_wrote(serve: Serve) -> None:
    directory = serve().directory
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
    assert program.count("\n") > 15
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "MSTORE_DIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second, *chunks = done.stdout.splitlines()
    assert re.fullmatch(r"\[\d+\] \[1\.5\] ", first)
    assert second == "1 [87.25]"
    assert [line.split()[1] for line in chunks] == ["1.5"]


def test_the_line_protocol_example_gets_the_reply_that_is_shown(serve: Serve) -> None:
    lines, reply = re.findall(r"printf '(.*)' \|\n.*\n(written=.*)\n", TEXT)[0]
    sent = lines.replace("\\n", "\n").encode()
    assert serve().send_text(sent).decode().strip() == reply

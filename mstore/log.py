"""Log set-up: stdlib logging to standard error, key=value text or JSON lines, with the process's name.

The last lines stay in memory, too: `mstore debug` shows them wherever standard error went.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import deque

RECENT_LINES = 200
_LINE_CHARACTERS = 2000

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class _JsonFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Recent(logging.Handler):
    """Keeps the last lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=RECENT_LINES)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record)[:_LINE_CHARACTERS])


_recent = _Recent()


def recent() -> list[str]:
    """The last lines this process logged, the oldest first."""
    return list(_recent.lines)


def set_up_logging(process: str) -> None:
    """Log to standard error. MSTORE_LOG = debug | info | warning | error, MSTORE_LOG_FORMAT = text | json."""
    level = os.environ.get("MSTORE_LOG", "info").upper()
    handler = logging.StreamHandler(sys.stderr)
    if os.environ.get("MSTORE_LOG_FORMAT") == "json":
        handler.setFormatter(_JsonFormatter(process))
    else:
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s %(levelname)-7s {process}[%(process)d] %(message)s")
        )
    _recent.lines.clear()  # a forked process has those of another
    logging.basicConfig(level=level if level in _LEVELS else "INFO", handlers=[handler, _recent], force=True)

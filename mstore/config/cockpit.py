"""ClusterCockpit's config.json as a configuration of mstore: the metric store's own, or cc-backend's.

    {"main": {...}, "metrics": {...}, "nats": {...}, "metric-store": {...}}      cc-metric-store
    {"main": {...}, "archive": {...}, "metric-store": {...}, ...}                cc-backend
    {"retention-in-memory": "48h", "memory-cap": 100, ...}                       the section alone

    metric-store.retention-in-memory    retention           metrics.NAME.frequency      metrics.NAME.step
    metric-store.memory-cap (GB)        memory_cap          metrics.NAME.aggregation    metrics.NAME.aggregation
    metric-store.checkpoint-interval    snapshot_interval   main.backend-url            protect.url
    metric-store.cleanup                archive             archive.path                topology: PATH/*/cluster.json
    resampling.minimum-points           minimum_points

Every other key is told in a warning, with what takes its place. The result is the document that the TOML parser would
have made of the same settings; the rest of the reading is the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container
from decimal import Decimal
from pathlib import Path
from typing import Any

from mstore.config.values import Refused, format_duration
from mstore.errors import shortened

SECTION_KEYS = frozenset(
    {
        "num-workers", "retention-in-memory", "checkpoint-interval", "memory-cap", "checkpoints", "cleanup", "debug",
        "nats-subscriptions",
    }
)  # fmt: skip
"""Of "metric-store"."""
MINIMUM_POINTS = 1000
"""What the metric store resamples from when nobody says otherwise."""
_GB = 10**9
_GO_UNITS_S = {
    "h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("1e-3"), "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"), "μs": Decimal("1e-6"), "ns": Decimal("1e-9"),
}  # fmt: skip
_GO_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|h|m|s)")

_SOCKETS = "mstore listens at the sockets in DIR/run"
_NATS = "mstore reads no NATS by itself: let a program write what it receives"
_INSTEAD = {
    "main.addr": _SOCKETS, "main.https-cert-file": _SOCKETS, "main.https-key-file": _SOCKETS,
    "main.user": "the service's own user (deploy/mstore.service)", "main.group": "the service's own group",
    "main.jwt-public-key": "who may use the sockets is a matter of their owner and group",
    "main.debug": "mstore debug tells what a store does", "metric-store.debug": "mstore debug dump SELECTOR",
    "metric-store.num-workers": "ingest_workers and query_workers follow the number of cores",
    "metric-store.checkpoints.file-format": "everything is logged, and snapshots are binary",
    "metric-store.checkpoints.directory": "log and snapshots are in DIR; `mstore import` reads the files there",
    "metric-store.checkpoints.max-wal-size": "wal_bytes bounds the log of the whole store, and loses nothing",
    "metric-store.nats-subscriptions": _NATS,
    "nats.address": _NATS, "nats.username": _NATS, "nats.password": _NATS, "nats.creds-file-path": _NATS,
}  # fmt: skip
"""What takes the place of keys that mstore does not follow."""

Check = Callable[[str, object, Callable[[object], Any]], Any]
"""(key, value, parser) -> what the parser makes of it; raises ConfigError that names key and value."""


def go_duration(value: object) -> int:
    """Seconds of a Go duration such as "48h", "1h30m" or "1.5h", one at least."""
    allowed = 'a duration such as "48h" or "1h30m", of one second at least'
    text = value if isinstance(value, str) else ""
    if not re.fullmatch(f"\\+?({_GO_PART.pattern})+", text):
        raise Refused(allowed)
    seconds = sum(Decimal(number) * _GO_UNITS_S[unit] for number, unit in _GO_PART.findall(text))
    if not 1 <= seconds < 10**12:
        raise Refused(allowed)
    return int(seconds)


class Translator:
    """One config.json; `document` is what it says in mstore's keys, `warnings` what it says that mstore does not follow.

    check     how a value is checked, and refused
    sections  tables that this mstore knows
    folder    of the file: names in it are relative to it
    """

    def __init__(self, check: Check, sections: Container[str], folder: Path | None) -> None:
        self._check = check
        self._sections = sections
        self._folder = folder
        self.document: dict[str, Any] = {}
        self.warnings: list[str] = []

    def read(self, given: dict[str, Any]) -> None:
        """raises ConfigError for a value that makes no sense"""
        if given.keys() & SECTION_KEYS and "metric-store" not in given:
            given = {"metric-store": given}
        others = []
        for key, value in given.items():
            if key == "main":
                self._main(self._table("main", value))
            elif key == "metrics":
                self._metrics(self._table("metrics", value))
            elif key == "metric-store":
                self._store(self._table("metric-store", value))
            elif key == "resampling":
                self._resampling("resampling", value)
            elif key == "archive" and "metrics" not in given:
                self._archive_of_jobs(self._table("archive", value))
            elif key == "nats":
                self._passed_over("nats", self._table("nats", value))
            else:
                others.append(key)
        if others:
            self.warnings.append(f"{', '.join(others)}: not about the metric store")
        self.document.setdefault("minimum_points", MINIMUM_POINTS)
        self.document.setdefault("unknown_metrics", "ignore")

    # --- sections

    def _main(self, given: dict[str, Any]) -> None:
        left: dict[str, Any] = {}
        for key, value in given.items():
            if key == "backend-url":
                url = self._check("main.backend-url", value, _text)
                if url:
                    self.document.setdefault("protect", {})["url"] = url
                    self.warnings.append(
                        "main.backend-url: asked for the nodes of running jobs, which takes a token: protect.token_file"
                    )
            elif key == "resampling":
                self._resampling("main.resampling", value)
            else:
                left[key] = value
        self._passed_over("main", left)

    def _resampling(self, where: str, value: object) -> None:
        left = dict(self._table(where, value))
        if "minimum-points" in left:
            points = left.pop("minimum-points")
            self.document["minimum_points"] = self._check(f"{where}.minimum-points", points, _count)
        self._passed_over(where, left)

    def _metrics(self, given: dict[str, Any]) -> None:
        found = self.document.setdefault("metrics", {})
        for name, value in given.items():
            where = f"metrics.{name}"
            metric = dict(self._table(where, value))
            said: dict[str, Any] = {"aggregation": self._aggregation(where, metric.pop("aggregation", None))}
            said["step"] = self._check(f"{where}.frequency", metric.pop("frequency", 0), _frequency)
            found[name] = said
            self._passed_over(where, metric)

    def _aggregation(self, where: str, value: object) -> str:
        if value in (None, ""):
            return "none"
        if value not in ("sum", "avg"):
            self.warnings.append(
                f"{where}.aggregation: {shortened(repr(value))} is neither sum nor avg; taken as none"
            )
            return "none"
        return str(value)

    def _store(self, given: dict[str, Any]) -> None:
        left: dict[str, Any] = {}
        for key, value in given.items():
            where = f"metric-store.{key}"
            if key == "retention-in-memory":
                self.document["retention"] = format_duration(self._check(where, value, go_duration))
            elif key == "checkpoint-interval":
                self.document["snapshot_interval"] = format_duration(self._check(where, value, go_duration))
            elif key == "memory-cap":
                self.document["memory_cap"] = self._check(where, value, _count) * _GB
            elif key == "cleanup":
                self._cleanup(self._table(where, value))
            elif key == "checkpoints":
                self._passed_over(where, self._table(where, value))
            else:
                left[key] = value
        self._passed_over("metric-store", left)

    def _cleanup(self, given: dict[str, Any]) -> None:
        where = "metric-store.cleanup"
        mode = self._check(f"{where}.mode", given.get("mode", "delete"), _cleanup_mode)
        directory = self._check(f"{where}.directory", given.get("directory", ""), _text)
        if mode == "archive" and "archive" in self._sections:
            self.document["archive"] = {"mode": "archive"}
            if directory:
                self.document["archive"]["directory"] = str(self._beside(directory).absolute())
        elif mode == "archive":
            self.warnings.append(f"{where}: this mstore writes no archive")
        self._passed_over(
            where, {key: value for key, value in given.items() if key not in ("mode", "directory")}
        )

    def _archive_of_jobs(self, given: dict[str, Any]) -> None:
        """cc-backend's job archive holds a cluster.json for each cluster, with its nodes and metrics."""
        path = self._check("archive.path", given.get("path", ""), _text)
        if not path:
            self.warnings.append(
                "archive: no path of a job archive, whose cluster.json files define the metrics"
            )
            return
        folder = self._beside(path)
        files = sorted(folder.glob("*/cluster.json"))
        self.document["topology"] = [str(file) for file in files]
        if not files:
            self.warnings.append(
                f"archive.path: there is no {folder}/*/cluster.json: no metric is defined by it"
            )

    def _beside(self, name: str) -> Path:
        """A relative name is one in the file's own directory."""
        path = Path(name).expanduser()
        return path if self._folder is None else self._folder / path

    # --- what is not followed

    def _passed_over(self, where: str, given: dict[str, Any]) -> None:
        for key in given:
            whole = f"{where}.{key}"
            self.warnings.append(
                f"{whole} is not followed: {_INSTEAD.get(whole, 'mstore knows no such key')}"
            )

    def _table(self, where: str, value: object) -> dict[str, Any]:
        found: dict[str, Any] = self._check(where, {} if value is None else value, _object)
        return found


def is_cockpit(path: Path) -> bool:
    """Whether a file's name says that it is JSON."""
    return path.suffix == ".json"


def decode(text: str) -> dict[str, Any]:
    """The object in a JSON text. raises ValueError"""
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("expected an object")
    return document


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused("an object")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Refused("a text")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**9:
        raise Refused("a whole number, 0 or more")
    return value


def _frequency(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 7 * 86400:
        raise Refused("seconds between two samples, 1 to 604800")
    return value


def _cleanup_mode(value: object) -> str:
    if value not in ("delete", "archive"):
        raise Refused('"delete" or "archive"')
    return str(value)

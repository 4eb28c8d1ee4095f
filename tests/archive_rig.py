"""Random stores to archive, the questions they are asked, and what makes two answers the same."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mstore.archive.lives import Memory
from mstore.archive.passes import Orders, Result, run_pass
from mstore.archive.reading import ArchiveFiles
from mstore.archive.scope import Scope, scope_of
from mstore.errors import MstoreError
from mstore.frames import Series
from mstore.persistence.files import Files
from mstore.query import Reader, Request
from mstore.shm import layout
from tests.query_rig import T0, Store

HOSTS = ("f1", "f2", "f10", "ö/..")
GRIDS = {"load": 60, "flops": 60, "ops": 10, "clock": 10}
LEVELS = ((), ("hwthread", "0"), ("hwthread", "1"), ("hwthread", "10"), ("accelerator", "00:49"), ("", "odd"))
DEEP = ("accelerator", "00:49", "nvlink", "0")
SPAN_S = 3 * 86_400
_numbers = itertools.count()


@dataclass
class Filled:
    """A store with random series, and where its archive goes."""

    store: Store
    root: Path
    refs: dict[int, str] = field(default_factory=dict)
    """Reference of each newest life -> its metric."""

    @property
    def memory(self) -> Memory:
        return Memory(self.store.directory_map.segment, self.store.samples_map.segment)

    @property
    def n_metrics(self) -> int:
        return self.store.writer.counts()["n_metrics"]

    def archive(self, to_s: int | np.ndarray[Any, Any], files: Files | None = None, **orders: Any) -> Result:
        """One pass, everything before to_s."""
        limits = np.full(self.n_metrics, to_s) if isinstance(to_s, int) else to_s
        return run_pass(files or Files(), self.root, self.memory, Orders(limits, paced=False, **orders))

    def free(self, before_s: int) -> int:
        """As retention does; the chunks that went."""
        return self.store.samples.sweep(0, self.store.writer.counts()["n_series"], before_s)

    def reader(self) -> Reader:
        return self.store.reader


def values_of(rng: np.random.Generator, kind: int, n: int) -> list[Any]:
    if kind == layout.TYPE_U64:
        return [int(one) for one in rng.integers(0, 1 << 63, n)]
    found = rng.normal(size=n) * 10.0 ** rng.integers(-30, 30, n)
    return [float(one) for one in found]


def fill(store: Store, root: Path, rng: np.random.Generator) -> Filled:
    """Series of all kinds, some with gaps, some that change step, phase or type on the way, rows out of order."""
    made = Filled(store, root)
    for host in HOSTS:
        for metric, step_s in GRIDS.items():
            for levels in (*LEVELS, DEEP):
                if rng.random() < 0.5:
                    continue
                t = T0 + int(rng.integers(0, 3600))
                ref = store.open(metric, host, *levels, t=t)
                made.refs[_grow(store, rng, ref, t, step_s)] = metric
        for metric, dtypes in (("scrape", "Qd"), ("beat", "Q")):
            if rng.random() < 0.6:
                ref = store.open(metric, host)
                stamps = np.unique(rng.integers(T0 * 1000, (T0 + SPAN_S) * 1000, int(rng.integers(1, 400))))
                rng.shuffle(stamps)
                for first in range(0, len(stamps), 50):
                    store.rows(
                        ref, [_row(rng, int(stamp), dtypes) for stamp in stamps[first : first + 50]], dtypes
                    )
                made.refs[ref] = metric
    return made


def _row(rng: np.random.Generator, stamp: int, dtypes: str) -> tuple[Any, ...]:
    cells = [int(rng.integers(0, 1 << 63)) if kind == "Q" else float(rng.normal()) for kind in dtypes]
    return stamp, *cells


def _grow(store: Store, rng: np.random.Generator, ref: int, t: int, step_s: int) -> int:
    """Runs of samples with gaps between them, new lives in between; the reference of the newest."""
    end = T0 + SPAN_S
    while t < end:
        info = store.writer.series(ref & 0xFFFF_FFFF)
        assert info is not None
        n = int(min(rng.integers(1, 900), 1 + (end - t) // step_s))
        store.put(ref, t, values_of(rng, info.type, n), step_s)
        t += n * step_s + int(rng.integers(0, 20_000) if rng.random() < 0.5 else 0)
        if rng.random() < 0.15:
            anchor_s = t + int(rng.integers(step_s, 2 * step_s))
            step_s = int(rng.choice([step_s, 10, 30, 60]))
            kind = int(rng.choice([info.type, layout.TYPE_F64, layout.TYPE_F32]))
            ref, _ = store.writer.begin_era(ref & 0xFFFF_FFFF, anchor_s, step_s, anchor_s, kind)
            store.writer.publish()
            t = anchor_s + step_s // 2
    return ref


def questions(rng: np.random.Generator, n: int) -> list[Request]:
    """Of one series, of several, of aggregates, resampled; also of what there is not."""
    found = []
    for _ in range(n):
        start = T0 + int(rng.integers(-7200, SPAN_S))
        end = start + int(rng.integers(0, SPAN_S // 2))
        metric = str(rng.choice([*GRIDS, "scrape", "beat"]))
        request = Request("fritz", str(rng.choice([*HOSTS, "nobody"])), metric, start, end)
        kind = rng.integers(0, 5)
        if kind == 1:
            request.type, request.type_ids = "hwthread", str(rng.choice(["0", "1", "10", "99"]))
        elif kind == 2:
            request.type, request.type_ids = "hwthread", ["10", "0", "7"]
        elif kind == 3:
            request.type = "hwthread"
            request.aggregate = bool(rng.random() < 0.5)
            request.missing = str(rng.choice(["skip", "propagate"]))
        elif kind == 4:
            request.type, request.type_ids = "accelerator", "00:49"
            request.subtype, request.subtype_ids = "nvlink", "0"
        if metric in GRIDS and rng.random() < 0.3:
            request.resolution = GRIDS[metric] * int(rng.integers(1, 20))
        found.append(request)
    return found


def scopes_of(requests: list[Request]) -> list[Scope]:
    return [scope_of(one) for one in requests]


def asked(reader: Reader, request: Request) -> Any:
    """The answer, or the error's type and text: both are to be the same."""
    try:
        return reader.ask(request)
    except MstoreError as error:
        return type(error), str(error)


def plain(answer: Any) -> Any:
    """Everything that an answer says, comparable: values by their bits."""
    if isinstance(answer, list):
        return [plain(one) for one in answer]
    return answer.to_wire() if isinstance(answer, Series) else answer


def name() -> str:
    """Of segments that no other test has."""
    return f"mstore-archive-{next(_numbers)}"


__all__ = ["ArchiveFiles", "Filled", "Scope", "asked", "fill", "name", "plain", "questions", "scopes_of"]

"""`mstore debug`: everything that helps to understand a store, also one that is half dead.

    asked through control.sock   connections, slowest queries, last messages, configuration       who answers
    asked by SIGUSR2             stacks of every process                                          who can run
    read by the command itself   counters, rings, log, snapshots, /proc, /dev/shm, free space     always

No part waits for another: what fails is named in the summary and the rest is there. Nothing of the process's
environment and no sample's value is in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mstore import __version__, clock, paths
from mstore.client.session import Session
from mstore.errors import MstoreError
from mstore.ipc import messages as m
from mstore.ipc.transport import run
from mstore.kernels._ring import RingReader
from mstore.persistence import files
from mstore.shm import layout, segment
from mstore.shm.control import WORKER_FREE, WORKER_NAMES, Control
from mstore.workers import stacks
from mstore.workers.look import holder
from mstore.workers.stacks import open_files

WAIT_S = 5.0
"""For the store's answers; for stacks as long again."""

_PACKAGES = ("numpy", "msgpack", "uvloop", "psutil", "crc32c")


@dataclass(slots=True)
class Bundle:
    """What was found: files of text by name, and what could not be had."""

    texts: dict[str, str] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)
    """Processes that did not answer, each with how it is."""
    failures: list[str] = field(default_factory=list)

    def put(self, name: str, content: object) -> None:
        text = content if isinstance(content, str) else json.dumps(content, indent=2, default=str) + "\n"
        self.texts[name] = text

    @property
    def healthy(self) -> bool:
        return not self.silent and not self.failures


def collect(store_dir: Path, wait_s: float = WAIT_S) -> Bundle:
    """Ask and read whatever can be; never raises for what a broken store does.

    wait_s  for the store's answers, and again for the stacks
    """
    bundle = Bundle()
    found = list(_processes(store_dir))
    answered = _answers(bundle, store_dir, wait_s)
    _stacks(bundle, store_dir, found, answered, wait_s)
    _guarded(bundle, "machine.json", lambda: _machine(store_dir))
    _guarded(bundle, "processes.json", lambda: found)
    _guarded(bundle, "files.json", lambda: _files(store_dir))
    _guarded(bundle, "memory.json", lambda: _memory(store_dir))
    bundle.texts = {"summary.txt": _summary(bundle, store_dir, found), **bundle.texts}
    return bundle


def _guarded(bundle: Bundle, name: str, read: Callable[[], object]) -> None:
    try:
        bundle.put(name, read())
    except Exception as error:  # a report about a broken store must not break on what is broken
        bundle.failures.append(f"{name}: {type(error).__name__}: {error}")


# --- the processes


def _processes(store_dir: Path) -> Iterator[dict[str, Any]]:
    """The supervisor, its children and theirs, as /proc shows them."""
    pending = [holder(store_dir)]
    while pending:
        pid = pending.pop(0)
        if not pid or not _has_lock(pid, store_dir):
            continue
        yield _process(pid)
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            pending += [int(word) for word in _text(path).split()]


def _has_lock(pid: int, store_dir: Path) -> bool:
    """Whether the process holds DIR/lock open, as all of a run do: a number alone may be anybody's by now."""
    return os.path.realpath(files.lock_path(store_dir)) in open_files(pid)


def _process(pid: int) -> dict[str, Any]:
    status = dict(
        line.split(":\t", 1) for line in _text(Path(f"/proc/{pid}/status")).splitlines() if ":\t" in line
    )
    wanted = (
        "Name",
        "State",
        "PPid",
        "Uid",
        "VmRSS",
        "RssAnon",
        "RssShmem",
        "Threads",
        "voluntary_ctxt_switches",
    )
    with contextlib.suppress(OSError):
        status["Descriptors"] = str(len(os.listdir(f"/proc/{pid}/fd")))
    return {
        "pid": pid,
        **{name: status[name].strip() for name in (*wanted, "Descriptors") if name in status},
        "wchan": _text(Path(f"/proc/{pid}/wchan")),
        "cpu": _text(Path(f"/proc/{pid}/schedstat")).strip(),
        "limits": _text(Path(f"/proc/{pid}/limits")).splitlines()[1:],
        "io": _text(Path(f"/proc/{pid}/io")).splitlines(),
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


# --- asked


def _answers(bundle: Bundle, store_dir: Path, wait_s: float) -> set[int]:
    """states/NAME.json, log/NAME.txt and config.toml from the store's own answers; the processes that answered."""
    session: Session | None = None
    try:
        session = Session(paths.socket_path(store_dir, "control"), m.Hello(m.VERSION, "control"))
        done = run(session.exchange(m.States(), clock.monotonic_s() + wait_s))
    except (MstoreError, OSError) as error:
        bundle.failures.append(f"the store does not answer: {error}")
        return set()
    finally:
        if session is not None:
            session.forget()
    if not isinstance(done, m.Done):
        bundle.failures.append(f"the store does not answer: {type(done).__name__} came instead")
        return set()
    pids: set[int] = set()
    for name, state in done.details.items():
        pids.add(state.get("pid", 0))
        bundle.put(f"log/{name}.txt", "".join(f"{line}\n" for line in state.pop("log", ())))
        if config := state.pop("config", ""):
            bundle.put("config.toml", config)
        bundle.put(f"states/{name}.json", state)
    return pids


def _stacks(
    bundle: Bundle, store_dir: Path, found: list[dict[str, Any]], answered: set[int], wait_s: float
) -> None:
    by_pid = {one["pid"]: one for one in found}
    shown = stacks.ask(store_dir, by_pid, wait_s)
    for stack in shown:
        bundle.put(f"stacks/{stack.name}.txt", stack.text)
    without = {stack.pid for stack in shown if not stack.text} | (
        by_pid.keys() - {stack.pid for stack in shown}
    )
    names = {stack.pid: stack.name for stack in shown}
    for pid, one in by_pid.items():
        name = names.get(pid, one.get("Name", "?"))
        how = f"{name} [{pid}], {one.get('State', '?')}"
        if pid in without:
            bundle.silent.append(f"{how}: shows no stack")
        elif pid not in answered and name != "snapshot" and answered:
            bundle.silent.append(f"{how}: did not answer (its stack is there)")


# --- read


def _machine(store_dir: Path) -> dict[str, Any]:
    def room(path: Path) -> dict[str, int]:
        status = os.statvfs(path)
        return {"bytes": status.f_blocks * status.f_frsize, "free": status.f_bavail * status.f_frsize}

    packages = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    wanted = ("MemTotal", "MemAvailable", "Shmem", "SwapFree", "Dirty", "Writeback")
    meminfo = dict(line.split(":", 1) for line in _text(Path("/proc/meminfo")).splitlines() if ":" in line)
    return {
        "mstore": __version__,
        "python": sys.version,
        "packages": packages,
        "layout": {"version": layout.LAYOUT_VERSION, "fingerprint": f"{layout.FINGERPRINT:#x}"},
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "time": {"wall_s": clock.now_s(), "monotonic_s": clock.monotonic_s()},
        "memory": {name: meminfo[name].strip() for name in wanted if name in meminfo},
        "pressure": {
            kind: _text(Path("/proc/pressure") / kind).splitlines() for kind in ("cpu", "io", "memory")
        },
        "room": {str(path): room(path) for path in (store_dir, segment.SHM_DIR)},
    }


def _files(store_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """Names, sizes and ages of all that DIR holds."""
    folders = (
        store_dir,
        paths.run_dir(store_dir),
        files.wal_dir(store_dir),
        files.snapshot_dir(store_dir),
        files.quarantine_dir(store_dir),
    )
    return {str(folder): _listing(folder) for folder in folders}


def _listing(folder: Path) -> list[dict[str, Any]]:
    found = []
    with contextlib.suppress(OSError):
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            with contextlib.suppress(OSError):  # gone meanwhile
                status = entry.stat(follow_symlinks=False)
                found.append(
                    {
                        "name": entry.name,
                        "bytes": status.st_size,
                        "allocated": status.st_blocks * 512,
                        "changed_s": round(status.st_mtime, 3),
                        "mode": oct(status.st_mode & 0o7777),
                        "uid": status.st_uid,
                        "gid": status.st_gid,
                    }
                )
    return found


def _memory(store_dir: Path) -> dict[str, Any]:
    """Counters of all workers and positions of all rings, out of the segments themselves."""
    note = json.loads((paths.run_dir(store_dir) / "instance.json").read_text())
    instance, names = note["instance"], note["segments"]
    found: dict[str, Any] = {"instance": instance, "segments": {}}
    for role, name in names.items():
        with contextlib.suppress(OSError):
            status = (segment.SHM_DIR / name).stat()
            found["segments"][role] = {
                "name": name, "bytes": status.st_size, "allocated": status.st_blocks * 512
            }  # fmt: skip
    with segment.attach(names["control"], layout.SEG_CONTROL, instance) as mapping:
        found.update(_control(Control(mapping)))
    found["rings"] = {}
    for role, name in names.items():
        if role.startswith("ring-"):
            with segment.attach(name, layout.SEG_RING, instance) as mapping:
                found["rings"][role] = _ring(RingReader(mapping.segment))
    return found


def _control(control: Control) -> dict[str, Any]:
    return {
        "state": control.state,
        "flags": control.flags,
        "config_version": control.config_version,
        "retention_s": control.retention_s,
        "written": control.written,
        "durable": control.durable,
        "totals": {name: value for name, value in control.totals().items() if value},
        "workers": [
            {
                "kind": WORKER_NAMES.get(slot.kind, "?"),
                "index": slot.index,
                "pid": slot.pid,
                "state": slot.state,
                "epoch": slot.epoch,
                "started_s": slot.started_ns / 1_000_000_000,
                "counters": {name: value for name, value in slot.snapshot().items() if value},
            }
            for slot in control.workers()
            if slot.state != WORKER_FREE
        ],
    }


def _ring(ring: RingReader) -> dict[str, int]:
    durable, drained, head = ring.durable(), ring.drained(), ring.head()
    return {
        "bytes": ring.ring_bytes(),
        "head": head,
        "drained": drained,
        "durable": durable,
        "not_applied": head - drained,
        "not_durable": head - durable,
    }


# --- told


def _summary(bundle: Bundle, store_dir: Path, found: list[dict[str, Any]]) -> str:
    lines = [f"mstore {__version__}, {store_dir}, {clock.now_s()} s since 1970", ""]
    if not found:
        lines.append("no process of a store runs here")
    for one in found:
        lines.append(
            f"{one.get('Name', '?'):18} {one['pid']:>8}  {one.get('State', '?'):14} {one.get('VmRSS', '')}"
        )
    lines += ["", *(f"NOT ANSWERING: {text}" for text in bundle.silent)]
    lines += [f"NOT FOUND OUT: {text}" for text in bundle.failures]
    lines += ["", *_slowest(bundle)]
    return "\n".join(lines) + "\n"


def _slowest(bundle: Bundle) -> list[str]:
    """The slowest queries of all workers, one line each."""
    queries: list[dict[str, Any]] = []
    for name, text in bundle.texts.items():
        if name.startswith("states/query"):
            queries += json.loads(text).get("slowest_queries", ())
    queries.sort(key=lambda query: -query["ms"])
    if not queries:
        return []
    return ["slowest queries of the last hour:", *(f"  {_query_line(query)}" for query in queries[:10])]


def _query_line(query: dict[str, Any]) -> str:
    where = "/".join(str(query[name]) for name in ("selector", "cluster", "host", "metric") if name in query)
    return f"{query['ms']:.1f} ms  {where}  {query['series']} series, {query['samples']} samples"

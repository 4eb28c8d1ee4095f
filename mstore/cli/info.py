"""`mstore info`: how the store is, what it holds and takes in, what was refused."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from mstore.cli import common, prediction, render
from mstore.errors import InvalidRequest, MstoreError

START_S_MAX = 5.0
"""For control.sock, which answers at once or not at all."""
LOOK_S = 0.5
"""Between the two looks that the present rates are told from."""

# (title, counter, how to show it)
_RATES = (
    ("lines", "lines", render.si),
    ("samples", "samples", render.si),
    ("bytes in", "bytes_in", render.size),
    ("log", "wal_bytes", render.size),
    ("fdatasyncs", "fsyncs", render.si),
    ("queries", "queries", render.si),
    ("samples out", "query_samples", render.si),
)
_WORTH_LARGE_PAGES_BYTES = 1 << 30
"""Of less, a start takes a fraction of a second with any pages."""
# Worth a line only when they happened.
_EVENTS = {
    "errors": "connections ended or requests refused with an error",
    "ring_full_waits": "waits for room in a full ring",
    "restarts": "workers replaced",
    "fsync_errors": "failed fdatasyncs",
    "snapshot_errors": "failed snapshots",
    "export_errors": "failed exports: see the store's messages",
    "stale_samples": "samples of series that were gone",
    "eras_started": "series continued on a new grid",
    "chunks_freed": "chunks freed by retention",
    "chunks_evicted": "chunks evicted at the memory cap",
    "protection_errors": "times that a provider of protected hosts failed",
    "files_lost": "files of log and snapshots that somebody removed or changed",
    "cancelled": "requests cancelled",
}


def add(commands: common.Commands) -> None:
    info = common.command(
        commands,
        "info",
        "show what the store holds, how it runs and what was refused",
        "mstore info\nmstore info --json\nmstore info --predict --config mstore.toml --nodes 3000",
        f"Looks twice, {LOOK_S} s apart, to tell the present rates; --json prints one look, with every counter.",
    )
    common.json_option(info)
    prediction.add(info)
    info.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.predict:
        return prediction.run(args)
    if args.config is not None or args.nodes is not None:
        raise InvalidRequest("--config and --nodes belong to --predict")
    if found := while_it_starts(args):
        if args.json:
            common.print_json(found, indent=2)
        else:
            print("\n".join(starting(found)))
        return 0
    with common.open_client(args) as client:
        before = client.info()
        if args.json:
            common.print_json(before, indent=2)
            return 0
        time.sleep(LOOK_S)
        found = client.info()
    # Query workers over kept memory answer before the persister has taken it over.
    print("\n".join(starting(found) if _starts(found) else report(before, found, LOOK_S)))
    return 0


def while_it_starts(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of a store that still reads its files, from control.sock; empty in every other case.

    Only the store's own user may ask there. Others wait at query.sock, as senders do, until it is ready.
    """
    from mstore import paths

    if not os.access(paths.socket_path(common.store_dir(args), "control"), os.W_OK):
        return {}
    try:
        found = common.starting_info(args, START_S_MAX)
    except MstoreError:
        return {}  # query.sock will say what is wrong
    return found if _starts(found) else {}


def _starts(found: dict[str, Any]) -> bool:
    """Also when the store is renewed: most of its figures are of nothing yet, or of the start before."""
    return found.get("state") in ("starting", "replaying")


def starting(found: dict[str, Any]) -> list[str]:
    """The lines of `mstore info` while a store starts."""
    return [*_head(found), "", *_section("start", [how_far(found)])]


def how_far(found: dict[str, Any]) -> str:
    """How far a start has come."""
    reading = found.get("recovery") or {}
    if not reading:
        return "memory is about to be filled from the files, or taken over as it was kept; senders wait"
    size = f"{render.size(reading['done_bytes'])} of {render.size(reading['all_bytes'])}"
    return f"reading {reading['phase']}: {reading['percent']:.0f}%, {size}{_left(reading)}; senders wait"


def _left(progress: dict[str, Any]) -> str:
    left_s = progress.get("left_s")
    return "" if left_s is None else f", about {render.span(int(left_s) + 1)} left"


def _recovered(found: dict[str, Any]) -> list[str]:
    """What the last start found."""
    last = found.get("last_recovery") or {}
    if not last:
        return []
    read = "the memory of before, used again" if last.get("adopted") else f"{last['samples']:,} samples"
    lines = [f"{read} in {last['seconds']:.1f} s, {last['log_blocks']:,} blocks of the log replayed"]
    if last.get("chunks_beyond_retention"):
        lines.append(f"{last['chunks_beyond_retention']:,} chunks beyond retention were not loaded")
    if last.get("chunks_without_room"):
        lines.append(f"{last['chunks_without_room']:,} chunks, the oldest, did not fit the memory")
    lines += [f"cut: {text}" for text in last.get("cut", ())]
    lines += [render.paint(f"damaged: {text}", render.RED) for text in last.get("damaged", ())]
    return [*lines, *(f"hurt: {text}" for text in last.get("hurt", ())), *last.get("notes", ())]


def report(before: dict[str, Any], found: dict[str, Any], elapsed_s: float) -> list[str]:
    """The lines of `mstore info` from two answers of the store, elapsed_s apart."""
    lines = [*_head(found), "", *_holds(found), "", *_section("memory", _memory(found))]
    lines += ["", *_section("log", _log(found)), "", *_section("traffic", _traffic(before, found, elapsed_s))]
    if exported := _exported(found):
        lines += ["", *_section("export", exported)]
    if recovered := _recovered(found):
        lines += ["", *_section("last start", recovered)]
    for title, rows in (("refused", _refused(found)), ("events", _events(found))):
        if rows:
            lines += ["", *_section(title, render.columns(rows, "><"))]
    return [*lines, "", *_section("workers", _workers(found))]


def _section(title: str, lines: list[str]) -> list[str]:
    return [render.paint(title, render.BOLD), *("  " + line for line in lines)]


def _head(found: dict[str, Any]) -> list[str]:
    state = str(found.get("state", "unknown"))
    colour = render.GREEN if state == "ready" else render.YELLOW
    now = found.get("now_s", 0)
    up = max(0, now - found.get("started_s", now))
    lines = [
        f"mstore {found.get('version', '?')}  {render.paint(state, colour)}  {found.get('dir', '')}",
        f"running for {render.span(up)}, {render.clock(now, False)} {render.zone(now, False)}",
    ]
    if found.get("full"):
        lines.append(render.paint("FULL: nothing can be freed for new samples, senders wait", render.RED))
    if found.get("unprotected"):
        what = "files of the log or of a snapshot were removed or changed by somebody, what they held is only in memory"
        lines.append(
            render.paint(
                f"UNPROTECTED: {what} until a snapshot is complete: do not kill the store", render.RED
            )
        )
    elif found.get("degraded"):
        lines.append(
            render.paint(
                "DEGRADED: the log cannot be written, or a part of it is damaged: see the store's messages",
                render.RED,
            )
        )
    return lines + _removed(found)


def _removed(found: dict[str, Any]) -> list[str]:
    removed = found.get("memory", {}).get("removed_segments")
    if not removed:
        return []
    what = f"REMOVED from /dev/shm by somebody: {', '.join(removed)}"
    then = "the store goes on, programs cannot attach, the next restart reads the files"
    return [render.paint(f"{what}: {then}", render.RED)]


def _holds(found: dict[str, Any]) -> list[str]:
    counts = found.get("counts", {})
    parts = [
        f"{counts.get('live_series', 0):,} series (room for {counts.get('max_series', 0):,})",
        render.count(counts.get("n_levels", 0), "level"),
        render.count(counts.get("n_metrics", 0), "metric"),
        render.count(counts.get("n_keys", 0), "spelling"),
    ]
    return [f"{render.paint('holds', render.BOLD)}  {', '.join(parts)}"]


def _memory(found: dict[str, Any]) -> list[str]:
    segments = found.get("memory", {}).get("segments", {})
    rows = [
        [
            role,
            render.size(sizes["used_bytes"]) if "used_bytes" in sizes else "",
            render.size(sizes["allocated_bytes"]),
            render.size(sizes["reserved_bytes"]),
        ]
        for role, sizes in segments.items()
    ]
    total = sum(sizes["allocated_bytes"] for sizes in segments.values())
    rows.append(["in all", "", render.size(total), ""])
    lines = render.table(("segment", "used", "allocated", "reserved"), rows, "<>>>")
    if found.get("memory", {}).get("huge_pages") == "never" and total >= _WORTH_LARGE_PAGES_BYTES:
        lines.append(
            "in pages of 4 KiB: /dev/shm mounted with huge=advise would give large ones (docs/operations.md)"
        )
    counters = found.get("counters", {})
    if counters.get("protected_hosts") or counters.get("protection_heard_s"):
        heard = counters.get("protection_heard_s", 0)
        age = f", told {render.span(max(0, found.get('now_s', 0) - heard))} ago" if heard else ""
        lines.append(f"{render.count(counters['protected_hosts'], 'host')} protected from retention{age}")
    return lines


def _log(found: dict[str, Any]) -> list[str]:
    log, counters = found.get("log", {}), found.get("counters", {})
    behind = log.get("written_seq", 0) - log.get("durable_seq", 0)
    state = "all on disk" if not behind else f"{behind:,} not yet on disk"
    lines = [f"block {log.get('written_seq', 0):,} written, {state}"]
    if n := counters.get("fsyncs", 0):
        each_ms = counters.get("fsync_us_total", 0) / n / 1000
        lines[0] += f"; an fdatasync takes {each_ms:.3g} ms on average"
    segments = render.count(log.get("segments", 0), "segment")
    lines.append(
        f"{segments}, {render.count(log.get('spares', 0), 'spare')}: {render.size(log.get('segment_bytes', 0))}"
    )
    if n := log.get("snapshots", 0):
        age = render.span(max(0, found.get("now_s", 0) - log.get("snapshot_s", 0)))
        what = f"{render.count(n, 'snapshot')}: {render.size(log.get('snapshot_bytes', 0))}"
        lines.append(f"{what}; the newest is of block {log.get('snapshot_seq', 0):,}, {age} old")
    else:
        lines.append("no snapshot yet")
    if taking := found.get("snapshot"):
        lines.append(
            f"a snapshot is being written: {taking['percent']:.0f}%, {render.size(taking['bytes'])}{_left(taking)}"
        )
    return lines


def _exported(found: dict[str, Any]) -> list[str]:
    """The last export of [export], and the one under way."""
    export, lines = found.get("export") or {}, []
    if last := export.get("last"):
        age = render.span(max(0, found.get("now_s", 0) - last["at_s"]))
        what = f"{render.count(last['files'], 'file')}, {render.size(last['bytes'])}"
        lines.append(f"up to {render.clock(last['end'], False)} as {last['format']} in {last['directory']}")
        lines.append(f"{what}, {age} ago")
        lines += [f"left out or changed: {n:,} {text}" for text, n in last.get("notes", {}).items()]
    if now := export.get("now"):
        lines.append(f"an export is under way: {now['percent']:.0f}%{_left(now)}")
    return lines


def _traffic(before: dict[str, Any], found: dict[str, Any], elapsed_s: float) -> list[str]:
    up = max(1, found.get("now_s", 0) - found.get("started_s", 0))
    then, now = before.get("counters", {}), found.get("counters", {})
    rows = []
    for title, name, shown in _RATES:
        total = now.get(name, 0)
        rate = max(0, total - then.get(name, 0)) / elapsed_s
        as_total = render.size(total) if shown is render.size else f"{total:,}"
        rows.append([title, as_total, f"{shown(total / up)}/s", f"{shown(rate)}/s"])
    return render.table(("", "since start", "on average", "now"), rows, "<>>>")


def _refused(found: dict[str, Any]) -> list[list[str]]:
    """Lines that were not stored, by reason, the most frequent first."""
    counters = found.get("counters", {})
    refused = {
        name.removeprefix("rejected_"): n
        for name, n in counters.items()
        if name.startswith("rejected_") and n
    }
    if counters.get("ignored"):
        refused["unknown_metric (ignored)"] = counters["ignored"]
    return [[f"{n:,}", name] for name, n in sorted(refused.items(), key=lambda item: (-item[1], item[0]))]


def _events(found: dict[str, Any]) -> list[list[str]]:
    counters = found.get("counters", {})
    return [[f"{counters[name]:,}", what] for name, what in _EVENTS.items() if counters.get(name)]


def _workers(found: dict[str, Any]) -> list[str]:
    rows = [
        [
            f"{one['kind']} {one['index']}",
            str(one["pid"]),
            render.span(max(0, found.get("now_s", 0) - one.get("started_s", 0))),
            str(one["connections"]),
        ]
        for one in found.get("workers", ())
    ]
    return render.table(("worker", "pid", "running for", "connections"), rows, "<>>>")

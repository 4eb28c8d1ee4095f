"""What `mstore top` shows of a Model, for a terminal of any size: lines of styled text, as plain values.

    mstore  ready  /var/lib/mstore                        up 2 h 5 min   12:59:03 UTC
    ── traffic ──────────────────────────  ── memory ─────────────────────────────────
    ── workers ───────────────────────────────────────────────────────────────────────
    ── health of fritz ───────────────────────────────────────────────────────────────
    ── cpu_load of fritz ─────────────────────────────────────────────────────────────

Few hosts: a line each with its course, the busiest first. Many: the busiest, and a cell for every host; its height and
its colour both say how much. A dot is a host without a fresh sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from mstore.cli import render
from mstore.cli.top_looks import COURSE_S, HostValues, Look, Model
from mstore.display import sparkline
from mstore.health import FAILED, FULL, PARTIAL

Span: TypeAlias = tuple[str, str]
"""(text, style); a style is one of STYLES, or ""."""
Line: TypeAlias = list[Span]

STYLES = ("title", "dim", "good", "warn", "bad", "heat0", "heat1", "heat2", "heat3", "heat4")
BARS = "▁▂▃▄▅▆▇█"
N_HEATS = 5
WIDTH_MIN, HEIGHT_MIN = 60, 16
_LEFT = 38
"""Columns of the list of the busiest hosts beside the cells."""
_NAME_MAX = 24
NOTE_S = 60.0
"""How long it is said what has happened to the store."""


def frame(model: Model, width: int, height: int, *, utc: bool = False) -> list[Line]:
    """The screen: `height` lines, none wider than `width`; at least WIDTH_MIN and HEIGHT_MIN are needed."""
    if width < WIDTH_MIN or height < HEIGHT_MIN:
        return [[(f"mstore top needs {WIDTH_MIN} columns and {HEIGHT_MIN} lines", "warn")]]
    look = model.look
    if look is None:
        return [[(model.trouble or "looking at the store ...", "warn" if model.trouble else "dim")]]
    lines = [_head(model, look, width, utc), *_news(model, look)]
    gap = 2
    left = (width - gap) // 2
    right = width - gap - left
    traffic, memory = _traffic(model, left), _memory(look, right)
    lines += _beside(_titled("traffic", traffic, left), _titled("memory", memory, right), left, gap)
    lines += _titled("workers", _workers(look, width, roomy=height >= 40), width)
    lines += _titled(f"health of {look.cluster}" if look.cluster else "health", _health(look, width), width)
    lines += _metric(model, look, width, height - len(lines))
    lines = [_cut(line, width) for line in lines[:height]]
    return lines + [[] for _ in range(height - len(lines))]


def plain(line: Line) -> str:
    return "".join(text for text, _ in line).rstrip()


# --- parts


def _head(model: Model, look: Look, width: int, utc: bool) -> Line:
    info = look.info
    state = str(info.get("state", "unknown"))
    now_s = int(info.get("now_s", 0))
    up = render.span(max(0, now_s - int(info.get("started_s", now_s))))
    left: Line = [("mstore", "title"), ("  ", ""), (state, "good" if state == "ready" else "warn")]
    left += [("  paused", "warn")] if model.paused else []
    right = f"up {up}   {render.clock(now_s, utc, '%H:%M:%S')} {render.zone(now_s, utc)}"
    room = width - _width(left) - len(right) - 4
    where = str(info.get("dir", ""))
    where = where if len(where) <= room else f"…{where[-room + 1 :]}" if room > 1 else ""
    left.append((f"  {where}", "dim"))
    return [*left, (" " * (width - _width(left) - len(right)), ""), (right, "")]


def _news(model: Model, look: Look) -> list[Line]:
    """What must not be overlooked."""
    lines: list[Line] = []
    if model.trouble:
        lines.append([(model.trouble, "bad")])
        lines.append([("trying again; what is below was seen last", "warn")])
    elif model.late_s:
        lines.append(
            [(f"no answer for {model.late_s:.0f} s: the store is busy, is being started, or hangs", "warn")]
        )
    elif model.note and look.at_s < model.noted_s + NOTE_S:
        lines.append([(model.note, "warn")])
    info = look.info
    if info.get("full"):
        lines.append([("FULL: nothing can be freed for new samples, senders wait", "bad")])
    if info.get("unprotected"):
        lines.append([("UNPROTECTED: files were removed, a snapshot is being taken: see mstore info", "bad")])
    elif info.get("degraded"):
        lines.append([("DEGRADED: the log cannot be written, or a part is damaged: see mstore info", "bad")])
    return lines


def _traffic(model: Model, width: int) -> list[Line]:
    assert model.look is not None
    counters, log = model.look.info.get("counters", {}), model.look.info.get("log", {})
    rows: list[Line] = []
    for name, title, told in (
        ("lines", "lines", render.si), ("samples", "samples", render.si), ("bytes_in", "bytes in", render.size),
        ("queries", "queries", render.si), ("query_samples", "samples out", render.si),
    ):  # fmt: skip
        history = np.array(model.rates[name])
        text = f"{title:<12}{told(model.rate(name)) + '/s':>11}  "
        course = (
            sparkline(history, np.ones(len(history), np.bool_), max(0, width - len(text)))
            if history.any()
            else ""
        )
        rows.append([(text, ""), (course, "heat1")])
    behind = log.get("written_seq", 0) - log.get("durable_seq", 0)
    lag: Line = [
        ("lag         ", ""),
        ("all on disk", "good") if not behind else (render.count(behind, "block"), "warn"),
    ]
    if model.fsync_ms:
        lag.append((f"  fsync {model.fsync_ms:.3g} ms", "dim"))
    refused = sum(n for name, n in counters.items() if name.startswith("rejected_"))
    told_refused = (f"{refused:,} since the start", "warn") if refused else ("none", "good")
    return [*rows, lag, [("refused     ", ""), told_refused]]


def _memory(look: Look, width: int) -> list[Line]:
    segments: Mapping[str, Mapping[str, int]] = look.info.get("memory", {}).get("segments", {})
    kinds: dict[str, list[int]] = {}
    for role, sizes in segments.items():
        kind = "rings" if role.startswith("ring-") else role
        held = sizes.get("used_bytes", sizes["allocated_bytes"])
        entry = kinds.setdefault(kind, [0, 0])
        entry[0] += held
        entry[1] += sizes["reserved_bytes"] if kind in ("samples", "directory") else sizes["allocated_bytes"]
    rows: list[Line] = []
    order = ("samples", "directory", "rings")
    for kind in sorted(kinds, key=lambda name: order.index(name) if name in order else len(order)):
        held, room = kinds[kind]
        text = f"{kind:<10}{render.size(held):>9} of {render.size(room):<9}"
        share = held / room if room else 0.0
        bar = "█" * round(share * max(0, width - len(text) - 1)) if kind in ("samples", "directory") else ""
        rows.append([(text, ""), (bar, "bad" if share > 0.9 else "heat1")])
    total = sum(sizes["allocated_bytes"] for sizes in segments.values())
    counts, log = look.info.get("counts", {}), look.info.get("log", {})
    rows.append([(f"{'allocated':<10}{render.size(total):>9}", "")])
    rows.append([(f"{'series':<10}{counts.get('live_series', 0):>9,}", "")])
    now_s = int(look.info.get("now_s", 0))
    age = f"{render.span(max(0, now_s - log['snapshot_s']))} old" if log.get("snapshots") else "none yet"
    rows.append([(f"{'snapshot':<10}{age:>9}", "")])
    return rows


def _workers(look: Look, width: int, roomy: bool) -> list[Line]:
    workers: Sequence[Mapping[str, Any]] = look.info.get("workers", ())
    now_s = int(look.info.get("now_s", 0))
    counters = look.info.get("counters", {})
    if roomy and len(workers) <= 8:
        rows = [
            [f"{one['kind']} {one['index']}", f"pid {one['pid']}", f"{one['connections']:,} connections",
             f"up {render.span(max(0, now_s - one.get('started_s', now_s)))}"]
            for one in workers
        ]  # fmt: skip
        return [[(line, "")] for line in render.columns(rows, "<>>>")] if rows else []
    kinds: dict[str, int] = {}
    for one in workers:
        kinds[one["kind"]] = kinds.get(one["kind"], 0) + 1
    parts = [f"{n} {kind}" for kind, n in kinds.items()]
    parts.append(render.count(sum(one["connections"] for one in workers), "connection"))
    line: Line = [("   ".join(parts), "")]
    if n := counters.get("restarts", 0):
        line.append((f"   {render.count(n, 'worker')} replaced", "warn"))
    return [line]


def _health(look: Look, width: int) -> list[Line]:
    counts = look.n_by_state
    if not counts:
        return [[("no cluster has sent anything yet", "dim")]]
    line: Line = [(f"{render.count(sum(counts.values()), 'host')}:", "")]
    for state, style in ((FULL, "good"), (PARTIAL, "warn"), (FAILED, "bad")):
        if counts.get(state):
            line.append((f"  {counts[state]:,} {state}", style))
    lines = [line]
    if look.ill:
        named: Line = []
        for one in look.ill:
            what = f" ({_some(one.metrics)})" if one.metrics and one.state == PARTIAL else ""
            text = f"{one.host}{what}  "
            if _width(named) + len(text) > width - 6:
                named.append(("...", "dim"))
                break
            named.append((text, "bad" if one.state == FAILED else "warn"))
        lines.append(named)
    return lines


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}, {len(names) - 1} more"


def _metric(model: Model, look: Look, width: int, height: int) -> list[Line]:
    """The chosen metric over the hosts, in the lines that are left."""
    shown = look.shown
    if height < 3 or not shown.metric:
        return []
    n, present = len(shown.hosts), np.isfinite(shown.values)
    unit = f" [{shown.unit}]" if shown.unit else ""
    title = f"{shown.metric}{unit} of {look.cluster}"
    if shown.why or not n:
        return _titled(title, [[(shown.why or "no host has sent it", "dim")]], width)
    age = max(0, int(look.info.get("now_s", 0)) - shown.newest_s)
    if not present.any():
        told = f"no fresh sample; the newest is {render.span(age)} old" if shown.newest_s else "no sample"
        return _titled(title, [[(told, "dim")]], width)
    values = shown.values[present]
    low, high = min(0.0, float(values.min())), float(values.max())
    figures = f"newest {render.span(age)} ago, mean {render.number(float(values.mean()), 4)}"
    if n - int(present.sum()):
        figures += f", {n - int(present.sum())} without"
    if shown.courses and n <= 2 * (height - 1):
        courses = _courses(shown, width, height - 1, low, high)
        return _titled(f"{title}, {render.span(COURSE_S)}: {figures}", courses, width)
    body = _beside(
        _busiest(shown, height - 1, low, high),
        _cells(shown, width - _LEFT - 2, height - 1, low, high),
        _LEFT,
        2,
    )
    return _titled(f"{title}: {figures}", body, width)


def _order(shown: HostValues) -> list[int]:
    """Rows from the largest value to the smallest, those without one last."""
    filled = np.where(np.isfinite(shown.values), shown.values, -np.inf)
    return [int(row) for row in np.argsort(-filled, kind="stable")]


def _courses(shown: HostValues, width: int, n_lines: int, low: float, high: float) -> list[Line]:
    """A line a host, the busiest first: name, newest value, course."""
    name = min(_NAME_MAX, max(map(len, shown.hosts)))
    largest = (float(np.nanmax(one)) for one in shown.courses.values() if np.isfinite(one).any())
    high = max([high, *largest])
    lines: list[Line] = []
    for row in _order(shown)[:n_lines]:
        host, value = shown.hosts[row], float(shown.values[row])
        lines.append(
            [(f"{host[:name]:<{name}} {render.number(value, 4):>9}  ", "" if value == value else "dim")]
        )
        if host in shown.courses:
            lines[-1] += _scaled(shown.courses[host], width - name - 12, low, high)
    if (n := len(shown.hosts)) > n_lines:
        lines[-1] = [(f"... and {n - n_lines + 1} less busy hosts", "dim")]
    return lines


def _scaled(values: Any, columns: int, low: float, high: float) -> Line:
    """A course on the scale that all hosts share; the largest value of every column."""
    edges = np.arange(columns + 1) * len(values) // columns
    filled = np.where(np.isfinite(values), values, -np.inf)
    tops = np.maximum.reduceat(filled, edges[:-1])  # of an empty column: the value it begins with
    spans: Line = []
    for top in tops.tolist():
        text, style = _cell(top if top != -np.inf else float("nan"), low, high)
        text = text if style != "dim" else " "
        if spans and spans[-1][1] == style:
            spans[-1] = (spans[-1][0] + text, style)
        else:
            spans.append((text, style))
    return spans


def _busiest(shown: HostValues, n_lines: int, low: float, high: float) -> list[Line]:
    """The busiest hosts with a bar each."""
    lines: list[Line] = []
    wide = min(15, max(map(len, shown.hosts)))
    for row in _order(shown)[:n_lines]:
        value = float(shown.values[row])
        name = f"{shown.hosts[row][:wide]:<{wide}} {render.number(value, 4):>9}  "
        share = (value - low) / (high - low) if high > low and value == value else 0.0
        lines.append([(name, ""), ("█" * round(share * (_LEFT - len(name))), _cell(value, low, high)[1])])
    return lines


def _cells(shown: HostValues, width: int, height: int, low: float, high: float) -> list[Line]:
    """A cell a host in natural order, or the largest of several where there are more hosts than cells."""
    n = len(shown.hosts)
    name = min(12, max(map(len, shown.hosts)))
    room, rows = max(2, width - name - 1), max(1, height - 1)
    # With room to spare the cells stand apart, and so do their lines.
    apart = 2 if -(-n // (room // 2)) <= rows else 1
    across = room // apart
    across -= across % 10 if across >= 20 else 0
    each = -(-n // (across * rows))
    filled = np.where(np.isfinite(shown.values), shown.values, -np.inf)
    tops = np.maximum.reduceat(filled, np.arange(0, n, each)).tolist()
    n_rows = -(-len(tops) // across)
    lines: list[Line] = []
    for first in range(0, len(tops), across):
        lines.append([(f"{shown.hosts[first * each][:name]:<{name}} ", "dim")])
        for top in tops[first : first + across]:
            text, style = _cell(top if top != -np.inf else float("nan"), low, high)
            lines[-1].append((text.ljust(apart), style))
        if 2 * n_rows <= rows:
            lines.append([])
    scale: Line = [(f"{render.number(low, 4)} ", "dim")]
    scale += [(BARS[i], f"heat{i * N_HEATS // len(BARS)}") for i in range(len(BARS))]
    what = "a host each" if each == 1 else f"largest of {each}"
    return [*lines, [*scale, (f" {render.number(high, 4)}, {what}, · none", "dim")]]


def _cell(value: float, low: float, high: float) -> Span:
    """How much a value is between low and high, as a bar and as a colour."""
    if not np.isfinite(value):
        return "·", "dim"
    share = min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.0
    return BARS[min(int(share * len(BARS)), len(BARS) - 1)], f"heat{min(int(share * N_HEATS), N_HEATS - 1)}"


# --- lines


def _titled(title: str, lines: list[Line], width: int) -> list[Line]:
    text = title if len(title) <= width - 6 else f"{title[: width - 7]}…"
    return [[("── ", "dim"), (text, "title"), (f" {'─' * max(0, width - len(text) - 4)}", "dim")], *lines]


def _beside(left: list[Line], right: list[Line], columns: int, gap: int) -> list[Line]:
    """Two blocks side by side, the left one that wide."""
    lines: list[Line] = []
    for row in range(max(len(left), len(right))):
        one = _cut(left[row], columns) if row < len(left) else []
        lines.append(
            [*one, (" " * (columns - _width(one) + gap), ""), *(right[row] if row < len(right) else [])]
        )
    return lines


def _width(line: Line) -> int:
    return sum(render.columns_of(text) for text, _ in line)


def _cut(line: Line, width: int) -> Line:
    """What of a line fits."""
    kept: Line = []
    for text, style in line:
        room = width - _width(kept)
        if render.columns_of(text) > room:
            kept.append((text[: max(0, room)], style))
            break
        kept.append((text, style))
    return kept

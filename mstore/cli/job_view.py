"""What `mstore job` shows of a job's series: tables, CSV, JSON, plots, and which series have no sample for which reason."""

from __future__ import annotations

import argparse
import csv
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mstore.cli import common, render
from mstore.cli.courses import band, drawn, lacking, with_courses
from mstore.errors import ConfigError
from mstore.hostlists import fold
from mstore.jobs.views import JobData, ScopedStatistics, Statistics, united

if TYPE_CHECKING:
    from mstore.cli.job import Asked
    from mstore.fetching.packed import BatchSeries

LINES_MAX = len(render.SERIES_COLOURS)
"""More series of a metric are shown as their smallest, mean and largest."""
_HOSTS_SHOWN = 60
"""Characters of a hostlist."""
Found = JobData | ScopedStatistics


@dataclass(frozen=True, slots=True)
class Missing:
    """Series that are not there, of one reason."""

    why: str
    metric: str
    scope: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The series of a metric at a scope that could be answered."""

    metric: str
    scope: str
    unit: str
    step_s: int
    series: Sequence[BatchSeries]

    @property
    def held(self) -> list[BatchSeries]:
        """Those with samples."""
        return [one for one in self.series if one.n_samples]

    @property
    def names(self) -> list[str]:
        """Of `held`: the host, and the part of it."""
        return [f"{one.host}/{one.type}{one.type_id}" if one.type_id else one.host for one in self.held]

    @property
    def title(self) -> str:
        at = "" if self.scope == "node" else f" at {self.scope}"
        return f"{self.metric}{f' [{self.unit}]' if self.unit else ''}{at}"


def groups(found: Found) -> Iterator[Group]:
    for metric, scopes in found.items():
        for scope, one in scopes.items():
            if isinstance(one, list):
                unit, step_s = next(((s.unit, s.step) for s in one), ("", 0))
                yield Group(metric, scope, unit, step_s, one)
            else:
                yield Group(metric, scope, one.unit, one.step_s, one.series)


def has_samples(found: Found) -> bool:
    return any(group.held for group in groups(found))


# --- what is missing


def missing(asked: Asked, found: Found) -> list[Missing]:
    """Everything that was asked for and is not in the answer, by reason."""
    by: dict[tuple[str, str, str], list[str]] = {}
    for group in groups(found):
        for one in group.series:
            if not one.n_samples:
                by.setdefault((one.why or "no samples in range", group.metric, group.scope), []).append(
                    one.host
                )
    for error in found.errors:
        by.setdefault((error.error.message, error.metric, error.scope), []).append(error.host)
    named = {metric for _, metric, _ in by}
    for metric in asked.metrics or ():
        if metric not in found and metric not in named:
            by["no host of this job has this metric", metric, ""] = []
    for metric, scopes in found.items():
        for scope in asked.scopes:
            if scopes and scope not in scopes:
                by[f"shown at {next(iter(scopes))}, where it is stored", metric, scope] = []
    if not found and not by:
        by[f"the store knows no metric of cluster {asked.job.cluster!r}", "", ""] = []
    return [
        Missing(why, metric, scope, tuple(dict.fromkeys(host for host in hosts if host)))
        for (why, metric, scope), hosts in by.items()
    ]


def told(found: Sequence[Missing], n_metrics: int) -> list[str]:
    """A line for each reason, set of hosts and scope, with the metrics it is said of: of n_metrics that were asked for."""
    by: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for one in found:
        by.setdefault((one.why, one.hosts, one.scope), []).append(one.metric)
    lines = []
    for (why, hosts, scope), metrics in by.items():
        where = f" at {scope}" if scope and scope != "node" else ""
        whose = f" of {hosts_text(hosts)}" if hosts else ""
        named = f"all {n_metrics} metrics" if len(metrics) == n_metrics > 1 else ", ".join(metrics)
        lines.append(f"{named}{where}{whose}: {why}" if metrics != [""] else why)
    return lines


def hosts_text(hosts: Sequence[str]) -> str:
    """A hostlist that fits a line, and how many it has."""
    try:
        text = fold(hosts)
    except ConfigError:  # names that a hostlist cannot hold
        text = ",".join(hosts)
    if len(text) > _HOSTS_SHOWN:
        text = f"{text[: _HOSTS_SHOWN - 3]}..."
    return text if len(hosts) == 1 else f"{text} ({len(hosts)} hosts)"


# --- formats


def as_table(asked: Asked, found: Found, args: argparse.Namespace) -> None:
    shown = [group for group in groups(found) if group.held]
    print("\n".join(heading(asked, args.utc)))
    if shown:
        print("\n" + "\n".join(_overview(shown)))
    if shown and (asked.metrics is not None or asked.scopes != ["node"]):
        for group in shown:
            if len(group.series) > 1:
                print("\n" + "\n".join(_of_hosts(group, args.rows)))
    elif any(len(group.series) > 1 for group in shown):
        print(render.paint("--metric NAME shows its hosts one by one, --plot FILE draws them", render.DIM))
    if lines := told(missing(asked, found), len(found)):
        print("\n" + render.paint("missing", render.BOLD))
        for line in lines:
            print(textwrap.fill(line, common.width(), initial_indent="  ", subsequent_indent="    "))


def heading(asked: Asked, utc: bool) -> list[str]:
    """What job it is, and when it ran."""
    job, document = asked.job, asked.document
    where = f"{job.cluster}/{job.subcluster}" if job.subcluster else job.cluster
    facts = [f"{render.count(len(job.hosts), 'host')} of {where}", str(document.get("jobState", ""))]
    if isinstance(user := document.get("user"), str) and user:
        facts.append(f"user {user}")
    title = render.paint(f"job {job.id}".strip(), render.BOLD)
    times = f"{render.time_range(asked.start, asked.end, utc)}, {render.span(asked.end - asked.start)}"
    return [f"{title}  {', '.join(fact for fact in facts if fact)}", render.paint(times, render.DIM)]


_HEADS = ("samples", "min", "mean", "max")


def _overview(shown: Sequence[Group]) -> list[str]:
    """A line a metric and scope, over all hosts; the course is the mean of the hosts'."""
    rows = []
    for group in shown:
        at = "" if group.scope == "node" else f" at {group.scope}"
        rows.append(
            [group.metric + at, group.unit, *_figures(united([Statistics.of(one) for one in group.held]))]
        )
    return with_courses(("metric", "unit", *_HEADS), rows, [band(group.held)[2] for group in shown], "<<>>>>")


def _of_hosts(group: Group, rows_max: int) -> list[str]:
    held, names = group.held, group.names
    n = len(held) if rows_max <= 0 or len(held) <= rows_max + 1 else rows_max
    rows = [[name, *_figures(Statistics.of(one))] for name, one in zip(names[:n], held[:n], strict=True)]
    head = "host" if group.scope == "node" else group.scope
    lines = with_courses((head, *_HEADS), rows, [drawn(one) for one in held[:n]], "<>>>>")
    if n < len(held):
        lines.append(render.paint(f"... {len(held) - n:,} more (--rows 0 prints all)", render.DIM))
    return [render.paint(group.title, render.BOLD), *lines]


def _figures(one: Statistics) -> list[str]:
    return [f"{one.n_samples:,}", *(render.number(value, 5) for value in (one.min, one.avg, one.max))]


def as_csv(asked: Asked, found: Found, args: argparse.Namespace) -> None:
    """A line a series; what is missing is empty, with its reason in the last column."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("metric", "scope", "host", "id", "unit", "samples", "min", "avg", "max", "why"))
    for group in groups(found):
        for one in group.series:
            said = one.statistics()
            figures = [said[name] if one.n_samples else None for name in ("min", "avg", "max")]
            row = (
                group.metric,
                group.scope,
                one.host,
                one.type_id,
                group.unit,
                one.n_samples,
                *figures,
                one.why,
            )
            writer.writerow(["" if cell is None else cell for cell in row])


def as_json(asked: Asked, found: Found, args: argparse.Namespace) -> None:
    """The job's data as its archive has it, and what is missing."""
    lacking = [
        {"metric": one.metric, "scope": one.scope, "hosts": list(one.hosts), "why": one.why}
        for one in missing(asked, found)
    ]
    job = asked.job
    common.print_json(
        {"jobId": job.id, "cluster": job.cluster, "start": asked.start, "end": asked.end, "data": found.to_dict(),
         "missing": lacking}
    )  # fmt: skip


def as_plot(asked: Asked, found: Found, args: argparse.Namespace) -> None:
    from mstore.cli.plot import legend, plot

    print("\n".join(heading(asked, args.utc)))
    for group in groups(found):
        if not (held := group.held):
            continue
        if len(held) <= LINES_MAX:
            names, times = group.names, [one.times_ms / 1000 for one in held]
            values = [drawn(one) for one in held]
        else:
            when, *values = band(held)
            names, times = ["min", "mean", f"max of {len(held)}"], [when] * 3
        print(f"\n{render.paint(group.title, render.BOLD)}")
        lines = plot(times, values, columns=common.width(), rows=8, utc=args.utc, colour=common.colours())
        print("\n".join(lines + (legend(names) if len(names) > 1 else [])))
        if len(held) <= LINES_MAX and (told := lacking(list(zip(names, held, strict=True)), args.utc)):
            print("\n".join(render.paint(line, render.DIM) for line in told))


def as_picture(asked: Asked, found: Found, kind: str, *, utc: bool = False) -> bytes:
    """PNG or SVG, a panel for each metric and scope. raises InvalidRequest, MissingLibrary"""
    from mstore.cli.picture import Panel, picture

    panels = [
        Panel(group.title, group.unit, list(zip(group.names, group.held, strict=True)))
        for group in groups(found)
        if group.held
    ]
    job = asked.job
    title = f"job {job.id} on {render.count(len(job.hosts), 'host')} of {job.cluster}"
    return picture(panels, f"{title}, {render.time_range(asked.start, asked.end, utc)}", kind, utc=utc)


PRINTED: dict[str, Callable[[Any, Any, argparse.Namespace], None]] = {
    "table": as_table, "csv": as_csv, "json": as_json, "plot": as_plot,
}  # fmt: skip

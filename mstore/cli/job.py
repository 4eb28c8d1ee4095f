"""`mstore job`: what the store has of a job, from ClusterCockpit's meta.json: statistics, courses, and what is missing."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstore import choices, clock
from mstore.cli import common, output, streams
from mstore.errors import InvalidRequest
from mstore.scopes import FINE_TO_COARSE

if TYPE_CHECKING:
    from mstore.client.sync import Client
    from mstore.jobs import Job, JobData, ScopedStatistics

ROWS_DEFAULT = 20
POINTS = {"table": 160, "plot": 400}
"""Points of a course that a format can show: no more are asked for."""
BYTES_MAX = 64 << 20
"""Of a meta.json: that of a job of 10,000 nodes with all their threads has 20 MB."""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands,
        "job",
        "show a job: statistics of every metric and host, courses, what is missing",
        "mstore job meta.json\n"
        "mstore job meta.json --metric flops_any mem_bw --scope node socket\n"
        "mstore job meta.json --plot job.png\n"
        "mstore job meta.json -o job.json",
        "FILE is ClusterCockpit's meta.json of a job (- is standard input). Read of it: cluster, subCluster, startTime, "
        "duration, resources; a job without a duration runs until now. Statistics are of all samples, courses are means.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--metric", metavar="NAME", nargs="+", help="only these (default: all), and each host of them"
    )
    parser.add_argument(
        "--scope", choices=FINE_TO_COARSE, metavar="SCOPE", nargs="+", default=["node"],
        help=f"{', '.join(reversed(FINE_TO_COARSE))} (default: node)",
    )  # fmt: skip
    parser.add_argument(
        "--resolution", metavar="STEP", type=common.duration, default=0,
        help="one value for every STEP, such as 5m (default: as stored, or as many as can be shown)",
    )  # fmt: skip
    parser.add_argument(
        "--algo", choices=choices.ALGORITHMS, default="average", metavar="NAME",
        help=f"how --resolution makes it: {', '.join(choices.ALGORITHMS)} (default: average)",
    )  # fmt: skip
    output.add(parser, ("table", "csv", "json", "plot"))
    parser.add_argument(
        "--rows", type=common.number, default=ROWS_DEFAULT, metavar="N",
        help=f"hosts of each metric in a table; 0 = all (default: {ROWS_DEFAULT})",
    )  # fmt: skip
    parser.add_argument("--utc", action="store_true", help="show times in UTC instead of the local zone")
    parser.set_defaults(run=run)


@dataclass(frozen=True, slots=True)
class Asked:
    """A job and what is asked about it."""

    document: Mapping[str, Any]
    job: Job
    start: int
    end: int
    """Unix seconds; of a running job the time of asking."""
    metrics: list[str] | None
    scopes: list[str]


def run(args: argparse.Namespace) -> int:
    from mstore.cli import job_view

    wanted = output.wanted(args)
    asked = _asked(args)
    found: JobData | ScopedStatistics
    with common.open_client(args) as client:
        if wanted.text == "csv":
            found = client.job_scoped_statistics(asked.document, asked.metrics, asked.scopes)
        else:
            resolution = args.resolution or _resolution(client, asked, POINTS.get(wanted.text, 0))
            found = client.job_data(
                asked.document, asked.metrics, asked.scopes, resolution=resolution, algo=args.algo
            )
    held = job_view.has_samples(found)
    if wanted.picture and held:
        wanted.save(job_view.as_picture(asked, found, wanted.picture, utc=args.utc))
    elif not wanted.picture:
        with wanted.printed():
            job_view.PRINTED[wanted.text](asked, found, args)
    if wanted.text in ("csv", "plot"):  # the others have it in the answer
        for line in job_view.told(job_view.missing(asked, found), len(found)):
            streams.complain(f"mstore: {line}")
    return 0 if held else 1


def read(name: str) -> Any:
    """The decoded JSON of a file, or of standard input. raises InvalidRequest, OSError, StorageError"""
    content = streams.standard_input().read(BYTES_MAX + 1) if name == "-" else _bytes(Path(name))
    if len(content) > BYTES_MAX:
        raise InvalidRequest(f"{name} has more than {BYTES_MAX:,} bytes: expected the meta.json of one job")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name} is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"{name} holds no JSON object: expected ClusterCockpit's meta.json of a job")
    return document


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(BYTES_MAX + 1)


def _asked(args: argparse.Namespace) -> Asked:
    from mstore.jobs import Job

    document = read(args.file)
    job = Job.parse(document)
    end = job.end(clock.now_s())
    metrics = None if args.metric is None else list(dict.fromkeys(args.metric))
    return Asked(document, job, job.start, end, metrics, list(dict.fromkeys(args.scope)))


def _resolution(client: Client, asked: Asked, n_points: int) -> int:
    """Seconds, a multiple of the step of every metric, that make about n_points of the job; 0 = as stored."""
    if not n_points:
        return 0
    known = client.metrics(asked.job.cluster)
    steps = [one.step_s for one in known if one.step_s and (not asked.metrics or one.name in asked.metrics)]
    step_s = math.lcm(*steps)
    factor = -(-(asked.end - asked.start) // (step_s * n_points))
    return step_s * factor if steps and step_s * factor * 2 <= asked.end - asked.start else 0

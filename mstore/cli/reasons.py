"""Why a question has no sample, and what is there instead: for the line that `mstore query` ends with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mstore.cli import render
from mstore.cli.hints import of_host
from mstore.errors import MstoreError

if TYPE_CHECKING:
    from mstore.client.sync import Client
    from mstore.frames import Series

_NAMES_SHOWN = 5


def reason(client: Client, args: argparse.Namespace, host: str, found: Sequence[Series]) -> str:
    """One line about the first of the hosts that was asked for.

    found  its answers, all without a sample; none where nothing is stored at the level asked for
    """
    why = next((series.why for series in found if series.why), "" if found else "no such series")
    try:
        if why == "no such host":
            return why + of_host(host, args.cluster, client.children(args.cluster))
        if why in ("no such series", "no such id"):
            return why + _elsewhere(client, args, host)
        return (why or "no samples in range") + _newest(client, args, host)
    except MstoreError:  # the hint alone is lost
        return why or "no samples in range"


def _elsewhere(client: Client, args: argparse.Namespace, host: str) -> str:
    """At which levels of the host the metric is stored."""
    held = [path for path in client.host_series(args.cluster, host) if path.metric == args.metric]
    if not held:
        return f": {host} has not sent this metric"
    types: dict[str, list[str]] = {}
    for path in held:
        types.setdefault(path.type, []).append(path.type_id)
    if args.type and args.type in types:
        ids = types[args.type]
        more = f", ... ({len(ids)} in all)" if len(ids) > _NAMES_SHOWN else ""
        return f": {args.type} has the ids {', '.join(ids[:_NAMES_SHOWN])}{more}"
    stored = ", ".join(f"--type {name}" if name else "the host itself (no --type)" for name in types)
    return f": {args.metric} of {host} is stored at {stored}"


def _newest(client: Client, args: argparse.Namespace, host: str) -> str:
    """When the host's newest sample of the metric is from."""
    newest = client.latest([args.cluster, host], args.metric, per="series")
    times_ms = newest.times_ms[newest.valid]
    if not len(times_ms):
        return ""
    return f"; the newest sample is of {render.clock(int(times_ms.max()) / 1000, args.utc)}"

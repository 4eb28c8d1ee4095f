"""What somebody may have meant by the name of a cluster, host or metric that the store does not know."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence

from mstore.cli import common
from mstore.errors import ConfigError, MstoreError, UnknownMetric, UnknownSelector
from mstore.nearest import nearest

WAIT_S_MAX = 2.0
"""For a store that is slow to list its names: the error is shown without a hint."""
_LISTED_MAX = 60


def hint(error: UnknownMetric | UnknownSelector, args: argparse.Namespace) -> str:
    """ "; did you mean ...?" to follow the error's message, or ""; asks the store for its names."""
    said = error.details
    cluster, host, metric, selector = (
        str(said.get(key, "")) for key in ("cluster", "host", "metric", "selector")
    )
    try:
        with common.open_client(args, timeout=WAIT_S_MAX) as client:
            clusters = client.children()
            if cluster and cluster not in clusters:
                return did_you_mean(nearest(cluster, clusters))
            if cluster and host:
                return of_host(host, cluster, client.children(cluster))
            if metric:
                return did_you_mean(nearest(metric, (one.name for one in client.metrics(cluster or None))))
            return did_you_mean(_of_selector(client.children, selector)) if selector else ""
    except MstoreError:
        return ""


def of_host(host: str, cluster: str, hosts: Sequence[str]) -> str:
    """What may have been meant by a host that a cluster does not have, and which it has."""
    meant = did_you_mean(nearest(host, hosts)) or ";"
    return f"{meant} {cluster} has {_listed(hosts)}" if hosts else ""


def _listed(hosts: Sequence[str]) -> str:
    """A hostlist, or where that is long the first and the last host."""
    from mstore.hostlists import fold, natural_key

    with contextlib.suppress(ConfigError):  # names that no hostlist can hold
        if len(folded := fold(hosts)) <= _LISTED_MAX:
            return folded
    return f"{len(hosts):,} hosts, {min(hosts, key=natural_key)} to {max(hosts, key=natural_key)}"


def did_you_mean(name: str) -> str:
    return f"; did you mean {name}?" if name else ""


def _of_selector(children: common.Children, text: str) -> str:
    """What is like the first name of a selector that is not there."""
    from mstore.selector import Selector

    path: list[str] = []
    for step in Selector.parse(text).steps:
        if step.names is None or len(step.names) != 1:
            return ""
        name = step.names[0]
        if name not in (known := children(*path)):
            return nearest(name, known)
        path.append(name)
    return ""

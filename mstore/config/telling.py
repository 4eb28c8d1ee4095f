"""What a store tells those who ask of its configuration: topologies and definitions of metrics, and nothing else.

An attached program plans questions about jobs and nodes itself, so it needs what the query workers know; an import
defines metrics only where any sender may. The rest
(files, sizes, tokens of other services) is not its business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mstore.config.reading import parse, render
from mstore.config.schema import Config
from mstore.topology import document, parse_cluster


def told(config: Config) -> tuple[str, list[dict[str, Any]]]:
    """(TOML of what answers depend on, a cluster.json document for each topology)."""
    public = Config(
        unknown_metrics=config.unknown_metrics,
        default_step_s=config.default_step_s,
        minimum_points=config.minimum_points,
        metrics=config.metrics,
        cluster_metrics=config.cluster_metrics,
    )
    return render(public), [document(cluster) for cluster in config.clusters.values()]


def heard(text: str, documents: Sequence[object]) -> Config:
    """The Config of what told() said. raises ConfigError when it is none"""
    clusters = [parse_cluster(one) for one in documents]
    return replace(parse(text), clusters={cluster.name: cluster for cluster in clusters})

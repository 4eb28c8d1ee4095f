"""The configuration file: TOML text -> one frozen Config, every key checked.

    retention = "48h"                       a setting            (schema.py)
    topology = ["fritz.json"]               clusters and their metrics, ClusterCockpit's cluster.json
    [metrics.cpu_load]                      one metric, in every cluster
    [clusters.fritz]                        one cluster: how long its samples are kept
    [clusters.fritz.metrics.cpu_load]       one metric, in one cluster

A metric's definition is the topology's, with [metrics.NAME] laid over it and [clusters.C.metrics.NAME] over
both; its retention is what these say, else the cluster's, else the store's. A key that is not known, or a value that
is not allowed, is a ConfigError that names the key, the value and what is allowed: a typing error must never silently
become a default.
"""

from mstore.config.reading import example, load, parse, render, with_workers
from mstore.config.schema import RESTART_KEYS, SETTINGS, Config, MetricOverride
from mstore.config.values import Refused, format_duration, format_size, parse_duration, parse_size

__all__ = [
    "RESTART_KEYS",
    "SETTINGS",
    "Config",
    "MetricOverride",
    "Refused",
    "example",
    "format_duration",
    "format_size",
    "load",
    "parse",
    "parse_duration",
    "parse_size",
    "render",
    "with_workers",
]

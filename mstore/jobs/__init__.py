"""Jobs and nodes as ClusterCockpit describes them, what is asked about them, and the answers: values only.

    job.py      Job: a job's meta.json
    request.py  LoadRequest: metrics of hosts, or of the parts of them that a job owns, at some scopes
    loaded.py   Loaded: every series of the answer, with its labels, in flat arrays
    views.py    JobData, JobStatistics, ScopedStatistics, NodeData, NodeListData: the same by metric, scope and host

The views need numpy, which is loaded when one of them is used first.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mstore.jobs.job import Job, Resource

if TYPE_CHECKING:
    from mstore.jobs.views import (
        JobData,
        JobStatistics,
        MetricData,
        NodeData,
        NodeListData,
        ScopedStatistics,
        Statistics,
    )

__all__ = [
    "Job",
    "JobData",
    "JobStatistics",
    "MetricData",
    "NodeData",
    "NodeListData",
    "Resource",
    "ScopedStatistics",
    "Statistics",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mstore.jobs' has no attribute {name!r}")
    return getattr(import_module("mstore.jobs.views"), name)

"""Jobs and nodes as ClusterCockpit describes them, what is asked about them, and the answers: values only.

job.py      Job: a job's meta.json
request.py  LoadRequest: metrics of hosts, or of the parts of them that a job owns, at some scopes
loaded.py   Loaded: every series of the answer, with its labels, in flat arrays
views.py    JobData, JobStatistics, ScopedStatistics, NodeData, NodeListData: the same by metric, scope and host
"""

from mstore.jobs.job import Job, Resource
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

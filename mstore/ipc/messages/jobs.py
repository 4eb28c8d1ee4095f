"""Messages of query.sock about jobs and nodes: batch requests, job views, health, and what they are planned by."""

from __future__ import annotations

from typing import Any, ClassVar

from mstore.ipc import checks
from mstore.ipc.messages.base import Message, message


@message
class Clusters(Message):
    """The topologies and metric definitions of the store's configuration -> ClusterList."""

    TAG: ClassVar[int] = 70
    deadline_ms: int = 0


@message
class ClusterList(Message):
    """What config.told() says: the TOML that metrics are defined by, a cluster.json document for each topology."""

    TAG: ClassVar[int] = 71
    MANY: ClassVar[bool] = True
    toml: str
    clusters: list[dict[str, Any]]


RULES: checks.Rules = {}
"""Checks beyond the type, by (message, field)."""

"""Messages of query.sock about which series there are."""

from __future__ import annotations

from typing import ClassVar

from mstore.ipc import checks
from mstore.ipc.messages.base import Message, message


@message
class HostSeries(Message):
    """Every series of a host and of the levels below it -> SeriesPaths."""

    cluster: str
    host: str
    deadline_ms: int = 0


@message
class SeriesPaths(Message):
    """[cluster, host, metric, type, type_id, subtype, subtype_id] each, "" for what there is not."""

    MANY: ClassVar[bool] = True
    series: list[list[str]]


RULES: checks.Rules = {("SeriesPaths", "series"): checks.paths}
"""Checks beyond the type, by (message, field)."""

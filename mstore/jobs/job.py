"""A job: which hosts, hardware threads and accelerators it had, and when. Read from ClusterCockpit's meta.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mstore.errors import EmptyCluster, InvalidRequest, shortened
from mstore.times import SECONDS_MAX, SECONDS_MIN


@dataclass(frozen=True, slots=True)
class Resource:
    """What is asked about on one host."""

    host: str
    threads: tuple[int, ...] = ()
    """Hardware threads; none named: all of the host."""
    accelerators: tuple[str, ...] | None = ()
    """Their ids; None: all of the host."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a view of a job depends on."""

    cluster: str
    start: int
    """Unix seconds."""
    duration_s: int | None
    """None: it runs until now."""
    resources: tuple[Resource, ...]
    subcluster: str = ""
    """"": each host's own."""
    id: int | str = ""
    """For messages only."""

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(resource.host for resource in self.resources)

    def end(self, now_s: int) -> int:
        """The first second after it."""
        return max(now_s, self.start) if self.duration_s is None else self.start + self.duration_s

    @classmethod
    def parse(cls, document: Mapping[str, Any] | Job) -> Job:
        """The job of a decoded meta.json; keys that a view does not depend on are passed over.

        reads    cluster, subCluster, jobId, jobState, startTime, duration (or stopTime),
                 resources[].hostname, hwthreads, accelerators
        raises   InvalidRequest naming the key, its value and what is expected, EmptyCluster
        """
        if isinstance(document, Job):
            return document
        if document.get("cluster") == "":
            raise EmptyCluster("a job without a cluster: name it", key="cluster")
        start = _whole(document, "startTime")
        resources = document.get("resources")
        if not isinstance(resources, Sequence) or isinstance(resources, str) or not resources:
            raise _refused(document, "resources", "a list of hosts: a job without resources has no data")
        return cls(
            _text(document, "cluster"),
            start,
            _duration(document, start),
            tuple(_resource(entry, f"resources[{index}].") for index, entry in enumerate(resources)),
            _text(document, "subCluster", absent=""),
            document.get("jobId", ""),
        )


def _duration(document: Mapping[str, Any], start: int) -> int | None:
    if document.get("duration"):
        duration = _whole(document, "duration")
    elif document.get("stopTime"):
        duration = _whole(document, "stopTime") - start
    elif document.get("jobState", "running") == "running":
        return None
    else:
        duration = _whole(document, "duration")
    if duration < 0 or start + duration > SECONDS_MAX:
        raise _refused(document, "duration", "seconds, from 0 to the year 9999")
    return duration


def _resource(entry: object, where: str) -> Resource:
    if not isinstance(entry, Mapping):
        raise InvalidRequest(
            f"a job whose {where[:-1]} is no object: expected hostname, hwthreads, accelerators"
        )
    threads, accelerators = entry.get("hwthreads") or (), entry.get("accelerators") or ()
    if not _all(threads, int):
        raise _refused(entry, "hwthreads", "a list of hardware thread numbers", where)
    if not _all(accelerators, str):
        raise _refused(entry, "accelerators", "a list of accelerator ids as texts", where)
    return Resource(_text(entry, "hostname", where), tuple(threads), tuple(accelerators))


def _all(values: object, kind: type) -> bool:
    return isinstance(values, (list, tuple)) and all(type(value) is kind for value in values)


def _text(document: Mapping[str, Any], key: str, where: str = "", absent: str | None = None) -> str:
    value = document.get(key) or absent
    if not isinstance(value, str):
        raise _refused(document, key, "a name", where)
    return value


def _whole(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not SECONDS_MIN <= value <= SECONDS_MAX:
        raise _refused(document, key, "whole Unix seconds")
    return value


def _refused(document: Mapping[str, Any], key: str, expected: str, where: str = "") -> InvalidRequest:
    shown = shortened(repr(document.get(key)))
    return InvalidRequest(f"a job whose {where}{key} is {shown}: expected {expected}", key=f"{where}{key}")

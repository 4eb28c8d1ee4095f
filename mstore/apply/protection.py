"""Which hosts keep their data past retention, and are evicted last: hosts of running jobs, above all.

Three sources may protect a host: a file, ClusterCockpit's list of used nodes, an operator's command. It is protected as
long as one of them says so, or until the time that was given. What is said is logged (PROTECT records), so it is the same
after every replay; the table below is what the records have said so far, and a flag of the host's level tells every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mstore import clock
from mstore.shm.directory import DirectoryWriter
from mstore.shm.protection import FOR_GOOD_S, NOT_S, Source, decode, encode

Host = tuple[str, str]
"""(cluster, host)"""


class Protection:
    """The table, and the flags of the directory that follow it."""

    def __init__(self, directory: DirectoryWriter) -> None:
        self._directory = directory
        self._until_s: dict[Source, dict[Host, int]] = {source: {} for source in Source}
        self._on: set[Host] = set()

    def __len__(self) -> int:
        """Hosts that are protected now."""
        return len(self._on)

    def hosts(self, source: Source | None = None) -> dict[str, list[str]]:
        """{cluster: hosts} that are protected now, by one source or by any; sorted."""
        found: dict[str, list[str]] = {}
        for cluster, host in sorted(self._on if source is None else self._until_s[source]):
            found.setdefault(cluster, []).append(host)
        return found

    # --- records

    def apply(self, record: memoryview) -> None:
        """Follow one PROTECT record. raises CorruptRecord, with nothing changed"""
        said = decode(record)
        table = self._until_s[said.source]
        for name in said.hosts:
            host = said.cluster, name
            if said.until_s == NOT_S:
                table.pop(host, None)
            else:
                table[host] = said.until_s
            self._follow(host)

    def plan(self, source: Source, wanted: Mapping[str, Iterable[str]]) -> bytes:
        """Records after which a source protects exactly these hosts, for good; b"" if it does already.

        wanted  {cluster: hosts}
        """
        now = {(cluster, name) for cluster, names in wanted.items() for name in names}
        before = {host for host, until_s in self._until_s[source].items() if until_s == FOR_GOOD_S}
        ended = set(self._until_s[source]) - now
        return _encode(source, FOR_GOOD_S, now - before) + _encode(source, NOT_S, ended)

    def records(self) -> Iterator[bytes]:
        """The whole table as records: what a snapshot holds."""
        for source, table in self._until_s.items():
            by_end: dict[int, list[Host]] = {}
            for host, until_s in table.items():
                by_end.setdefault(until_s, []).append(host)
            for until_s, hosts in by_end.items():
                yield _encode(source, until_s, hosts)

    # --- what follows

    def expire(self) -> int:
        """Take the flags of hosts whose time is over, and forget them: it says itself when. The number of flags taken."""
        now_s, before = clock.now_s(), len(self._on)
        for table in self._until_s.values():
            for host in [host for host, until_s in table.items() if until_s <= now_s]:
                del table[host]
                self._follow(host)
        return before - len(self._on)

    def forget(self) -> None:
        """Nobody is protected: for memory of a run before, whose flags are still set."""
        for table in self._until_s.values():
            table.clear()
        self._on.clear()
        self._directory.forget_protection()

    def _follow(self, host: Host) -> None:
        now_s = clock.now_s()
        on = any(table.get(host, NOT_S) > now_s for table in self._until_s.values())
        if on == (host in self._on):
            return
        if on:
            self._on.add(host)
        else:
            self._on.discard(host)
        self._directory.protect(host[0].encode(), host[1].encode(), on)


def _encode(source: Source, until_s: int, hosts: Iterable[Host]) -> bytes:
    clusters: dict[str, list[str]] = {}
    for cluster, name in sorted(hosts):
        clusters.setdefault(cluster, []).append(name)
    return b"".join(encode(source, until_s, cluster, names) for cluster, names in clusters.items())

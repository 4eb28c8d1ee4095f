"""Every series of a host, by its path: what exports and imports go through."""

from __future__ import annotations

from collections.abc import Iterator

from mstore.hostlists import natural_key
from mstore.model import SeriesPath
from mstore.query.gather import checked, replanned
from mstore.query.retained import RetainedGatherer
from mstore.shm.directory import DirectoryReader


class ListingQuestions:
    """What a Reader can be asked about the series there are."""

    directory: DirectoryReader
    gatherer: RetainedGatherer

    def host_series(self, cluster: str, host: str) -> list[SeriesPath]:
        """The series of a host and of all levels below it, in natural order; none of a host that is not there."""
        return replanned(lambda: sorted(_below(self, cluster, host), key=_order))


def _below(reader: ListingQuestions, cluster: str, host: str) -> Iterator[SeriesPath]:
    if not host:
        return
    try:
        top = reader.directory.find_path(cluster.encode(), host.encode())
    except UnicodeEncodeError:
        return  # a lone surrogate is in no name
    names: dict[int, str] = {}
    levels: list[tuple[int, tuple[str, ...]]] = [(top, ())] if top >= 0 else []
    while levels:
        level, parts = levels.pop()
        for slot in reader.directory.level_series(level):
            found = reader.directory.series(slot)
            if found is None or found.level != level:
                continue  # it has gone
            if found.metric not in names:
                names[found.metric] = reader.directory.metric(found.metric).name
            yield SeriesPath(cluster, host, names[found.metric], *parts)
        children = checked(reader.gatherer.children(level))
        levels += [(child, (*parts, kind, name)) for child, kind, name in children]


def _order(path: SeriesPath) -> tuple[list[tuple[str, object]], object]:
    """A level comes before those below it."""
    return [(kind, natural_key(name)) for kind, name in path.levels()[1:]], natural_key(path.metric)

"""What loading snapshots put into a store, what it left out, and what could not be used."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from mstore.persistence.snapshot import SnapshotInfo
from mstore.persistence.snapshot_salvage import Lost
from mstore.plurals import count
from mstore.times import utc_reach

ANY_TIME_S = -(1 << 63)


@dataclass(frozen=True, slots=True)
class Refused:
    """A file of a snapshot that could not be used, or not all of it."""

    path: str
    log_seq: int
    cluster: int
    """Level id; 0 = a manifest or definitions."""
    offset: int
    reason: str
    n_series: int
    n_chunks: int
    """In the whole file, as its manifest says; 0 when nobody knows."""
    t_min: int
    t_max: int
    """Seconds; t_min > t_max: nobody knows."""
    n_lost: int = 0
    """Chunks that no other file gave; what the log has of them is replayed. -1 = nobody knows how many."""
    instead: str = ""
    """What was done about it."""
    name: str = ""
    """The cluster's."""
    lost: Lost | None = None
    """What n_lost is known to be of."""
    series: str = ""
    """Names of these series, as far as they are known."""

    def __str__(self) -> str:
        held = f"it held {self.held()}" if self.cluster else ""
        lost = f"lost: {self.costs()}" if self.costs() else ""
        told = f"{self.path} at {self.offset}: {self.reason}"
        return "; ".join(part for part in (told, held, self.instead, lost) if part)

    def reach(self) -> dict[str, object]:
        """Plain JSON of what n_lost is of."""
        if self.lost is None:
            return {"cluster": self.name, "chunks": self.n_lost}
        lost = {name: value for name, value in asdict(self.lost).items() if name != "refs"}
        return {"cluster": self.name, "chunks": self.n_lost, **lost, "series": self.series}

    def held(self) -> str:
        """What the whole file held."""
        of = f" of {self.name}" if self.name else ""
        reach = f", {utc_reach(self.t_min, self.t_max)}" if self.t_min <= self.t_max else ""
        return f"{self.n_series:,} series{of}, {count(self.n_chunks, 'chunk')}{reach}"

    def costs(self) -> str:
        """What it costs, as far as known; "" when nobody knows anything."""
        if not self.n_lost:
            return "nothing"
        n_chunks = count(self.n_lost, "chunk") if self.n_lost > 0 else "chunks, nobody knows how many,"
        if self.lost is None:
            return f"up to {n_chunks}" if self.n_lost > 0 else ""
        lost, how = self.lost, "" if self.lost.exact or self.n_lost < 0 else "up to "
        of = f"{lost.n_series:,} series" if lost.n_series and lost.exact else "series"
        if self.name or self.series:
            of += f" of {self.series or self.name}"
        when = lost if lost.t_min <= lost.t_max else self
        reach = f", {utc_reach(when.t_min, when.t_max)}" if when.t_min <= when.t_max else ""
        return f"{how}{n_chunks} of {of}{reach}, but for what the log holds"


@dataclass(slots=True)
class Loaded:
    """What loading snapshots put into the store, and what it left out."""

    definition_bytes: int = 0
    n_chunks: int = 0
    n_samples: int = 0
    n_stale: int = 0
    """Chunks of series that were removed or replaced while the snapshot was written; the log has the rest."""
    n_expired: int = 0
    """Chunks beyond retention."""
    n_older: int = 0
    """Chunks left out because the memory is smaller than it was: the oldest."""
    n_no_room: int = 0
    """Chunks left out, or evicted again, because there was less room than counted on."""
    from_s: int = ANY_TIME_S
    """Chunks that end before were left out because of memory; ANY_TIME_S: none."""
    before_log_seq: int = 0
    """Replay from the next sequence on; 0: all of the log."""
    durable_floor: int = 0
    """The newest sequence that the name of any manifest proves durable."""
    in_pieces: bool = False
    """No generation's definitions were whole: records of the log may build on what is missing."""
    snapshot: SnapshotInfo | None = None
    """The generation the definitions came from."""
    refused: list[Refused] = field(default_factory=list)

    def add(self, counts: tuple[int, int, int, int, int, int, int]) -> None:
        loaded, samples, stale, expired, older, no_room, evicted = counts
        self.n_chunks += loaded - evicted
        self.n_samples += samples
        self.n_stale += stale
        self.n_expired += expired
        self.n_older += older
        self.n_no_room += no_room + evicted

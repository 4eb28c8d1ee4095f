from typing import NamedTuple

from typing_extensions import Buffer

from mstore.kernels._grid import GridSamples

STOPPED_DONE: int
STOPPED_NO_ROOM: int
STOPPED_OTHER: int
LOADED: int
LOAD_STALE: int
LOAD_NO_ROOM: int

class ApplyResult(NamedTuple):
    n_samples: int
    n_stale: int
    n_records_skipped: int
    stopped_at: int
    why: int

class Samples(GridSamples):
    def apply(self, records: Buffer) -> ApplyResult: ...
    def n_shifts(self) -> int: ...
    def shifts(self) -> list[tuple[int, int]]: ...
    def load_chunk(self, slot: int, generation: int, n: int, header: Buffer, payload: Buffer) -> int: ...

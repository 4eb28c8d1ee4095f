from typing_extensions import Buffer

from mstore.kernels._intern import Interner
from mstore.kernels._segment import Segment

def create(segment: Segment, fd: int, sizes: list[int], max_series: int, seed: int) -> None: ...

class DirectoryWriter(Interner):
    def apply(self, records: Buffer) -> int: ...
    def rebuild_keys(self) -> tuple[int, int]: ...

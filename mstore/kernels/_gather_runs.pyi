from mstore.kernels._directory import DirectoryReader
from mstore.kernels._segment import Segment

class RunReader:
    directory: DirectoryReader
    samples: Segment
    now_s: int
    retention_s: int
    def __init__(self, directory: DirectoryReader, samples: Segment) -> None: ...
    def oldest_s(self, metric: int) -> int: ...

from mstore.kernels._directory import DirectoryReader
from mstore.kernels._segment import Segment

class RunReader:
    directory: DirectoryReader
    samples: Segment
    def __init__(self, directory: DirectoryReader, samples: Segment) -> None: ...

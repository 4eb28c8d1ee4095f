from typing_extensions import Buffer

from mstore.kernels._lines_batch import LineBatch as LineBatch
from mstore.kernels._segment import Segment

class LineScanner:
    directory: Segment
    n_hashed: int
    def __init__(self, directory: Segment) -> None: ...
    def scan(
        self,
        batch: LineBatch,
        text: Buffer,
        start: int,
        stop: int,
        *,
        final: bool,
        cluster_id: int,
        precision: int,
        now_s: int,
        oldest_s: int,
        newest_s: int,
        config_version: int,
        join: bool,
    ) -> int: ...

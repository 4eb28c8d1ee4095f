from collections.abc import Callable

from mstore.kernels._directory import DirectoryReader
from mstore.kernels._segment import Segment

Definition = tuple[int, int, int, int, int, int, int, bytes, bytes]

class Definer(DirectoryReader):
    fd: int
    commits_allowed: int
    limit_bytes: int
    admits: bool
    def __init__(self, segment: Segment, fd: int = -1) -> None: ...
    def set_policy(
        self, register_unknown: bool, default_step_s: int, config_version: int, max_series: int, max_keys: int
    ) -> None: ...
    def committed_bytes(self) -> int: ...
    def set_source(self, source: Callable[[bytes, bytes], Definition | None] | None) -> None: ...
    def set_retentions(self, retentions: dict[bytes, int]) -> None: ...
    def define(self, cluster: str | bytes, name: str | bytes, spec: Definition) -> bytes: ...

from typing_extensions import Buffer

class Segment:
    length: int
    writable: bool
    def __init__(self, buffer: Buffer, writable: bool = False) -> None: ...

from typing_extensions import Buffer

from mstore.kernels._expiry import Expiry

class Room(Expiry):
    def secure(self, n_bytes: int) -> int: ...
    def need(self, records: Buffer, limit: int) -> int: ...

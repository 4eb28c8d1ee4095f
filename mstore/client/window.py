"""Several writes under way on one connection, and what became of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mstore.client.results import WriteResult
from mstore.client.session import Session
from mstore.errors import InvalidRequest, MstoreError, ProtocolError
from mstore.ipc import messages
from mstore.ipc.transport import Steps


class Window:
    """At most `size` unacknowledged frames; the counts of the acknowledged ones are added up in `total`.

    deadline   gives the monotonic time by which the next acknowledgement must have come: time-outs are for
               progress, not for the whole
    A frame that is answered by an error leaves the others alone; the first such error is kept in `error`.
    """

    def __init__(self, session: Session, size: int, deadline: Callable[[], float]) -> None:
        if size < 1:
            raise InvalidRequest(f"window={size}: expected at least 1 frame")
        self._session = session
        self._size = size
        self._deadline = deadline
        self._waiting: deque[int] = deque()
        self.total = WriteResult()
        self.error: MstoreError | None = None

    def send(self, message: messages.Message) -> Steps[None]:
        """Send a frame as soon as the window has room. Interrupted, it is left to the next call."""
        while len(self._waiting) >= self._size:
            yield from self._settle_one()
        request_id = self._session.post(message)
        self._waiting.append(request_id)
        yield from self._session.transmit((request_id,), self._deadline())

    def drain(self) -> Steps[None]:
        """Wait for all acknowledgements."""
        while self._waiting:
            yield from self._settle_one()

    def take_result(self) -> WriteResult:
        """The counts since the last call. raises the first error, if there was one, and keeps the counts"""
        self.raise_error()
        total, self.total = self.total, WriteResult()
        return total

    def raise_error(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error

    def clear(self) -> None:
        self._waiting.clear()

    def _settle_one(self) -> Steps[None]:
        request_id = self._waiting[0]
        try:
            reply = yield from self._session.reply(request_id, self._deadline())
            if not isinstance(reply, messages.Written):
                raise ProtocolError(f"a write was answered by {type(reply).__name__}")
            self.total += WriteResult.of(reply)
        except MstoreError as error:
            if request_id in self._session.unanswered:
                raise
            if self.error is None:
                self.error = error
        self._waiting.popleft()

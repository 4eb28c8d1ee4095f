"""One connection of a client, without I/O: greeting, request ids, reconnecting and resending.

Questions and writes may be sent twice: questions change nothing, and a sample written again lands in the same
slot with the same value. So a session that loses its connection connects again (with growing pauses, until the
request's own deadline), greets, and sends everything unanswered again, in the original order.

The exceptions: lines without a timestamp (a line resent gets the time of its second arrival and may be stored in
two slots), and orders, which are sent once (Session.order).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from mstore import clock
from mstore.errors import InvalidRequest, MstoreError, ProtocolError, Timeout, Unavailable
from mstore.ipc import messages
from mstore.ipc.checks import Bin
from mstore.ipc.transport import Connect, Exchange, Link, LinkBroken, Receive, Send, Sleep, Steps

PAUSE_S_FIRST = 0.01
PAUSE_S_MAX = 1.0

Restore = Callable[["Session", float], Steps[None]]
Adapt = Callable[[messages.Message], messages.Message]


class _GoesAway(LinkBroken):
    """Whoever was asked has answered that another one is to be asked."""


class Session:
    """One connection and what it still owes. Used by one thread or task at a time.

    restore   steps to take after each greeting, before anything is resent (a writer opens its series)
    adapt     the form in which a message is sent on the present connection (a writer translates its handles)
    """

    def __init__(
        self, path: str, hello: messages.Hello, restore: Restore | None = None, adapt: Adapt | None = None
    ) -> None:
        self.path = path
        self.hello = hello
        self.link = Link()
        self.welcome: messages.Welcome | None = None
        self.unanswered: dict[int, messages.Message] = {}
        """By request id, in the order sent."""
        self._replies: dict[int, messages.Message] = {}
        self._restore = restore
        self._adapt = adapt
        self._next_id = 1
        self._pid = os.getpid()
        self._failures = 0
        """Broken connections since the last reply: what kills a server is not sent to it in a tight loop."""

    def exchange(self, message: messages.Message, until_s: float) -> Steps[messages.Message]:
        """Send a request and wait for its reply. raises the error that the store answered"""
        request_id = self.post(message)
        if self.link.connected:
            try:
                self._take((yield Exchange(self.link, self._parts(request_id, message), until_s)))
            except LinkBroken:
                self._failures += 1
            except Timeout as error:
                raise self._late() from error
        if request_id in self._replies:
            return self._settled(request_id)
        return (yield from self.reply(request_id, until_s))

    def order(self, message: messages.Message, until_s: float) -> Steps[messages.Message]:
        """As exchange(), for what changes the store itself: it reaches nobody twice.

        raises Unavailable when the connection breaks before the answer: nobody knows what was done
        """
        request_id = self.post(message)
        yield from self.transmit((request_id,), until_s)
        try:
            while request_id not in self._replies:
                self._take((yield Receive(self.link, until_s)))
        except _GoesAway as error:
            raise Unavailable(f"not done, or in part: {error}", path=self.path) from error
        except LinkBroken as error:
            raise Unavailable(
                f"the store's supervisor ended before it answered at {self.path}: what was ordered may be done in part; "
                "its log says what happened, `mstore serve` starts a store",
                path=self.path,
            ) from error
        except Timeout as error:
            raise Timeout(
                f"no answer in time at {self.path}; what was ordered may still be done: look before it is ordered again"
            ) from error
        return self._settled(request_id)

    def post(self, message: messages.Message) -> int:
        """Note a request as unanswered, to be sent by transmit() or with the next connection; its id."""
        request_id = self._new_id()
        self.unanswered[request_id] = message
        return request_id

    def transmit(self, request_ids: Sequence[int], until_s: float) -> Steps[None]:
        """Send posted requests: by themselves, or with all others on a new connection if there is none."""
        if self.link.connected:
            try:
                parts = [part for one in request_ids for part in self._parts(one, self.unanswered[one])]
                yield Send(self.link, parts, until_s)
                return
            except LinkBroken:
                # The last one has not arrived whole; an order goes alone, so nobody has it.
                self._failures += 1
            except Timeout as error:
                raise self._late() from error
        yield from self.connect(until_s)

    def reply(self, request_id: int, until_s: float) -> Steps[messages.Message]:
        """Wait for the reply to a posted request. raises the error that the store answered"""
        while request_id not in self._replies:
            if request_id not in self.unanswered:
                raise ProtocolError(f"request {request_id} is not under way")
            yield from self._receive(until_s)
        return self._settled(request_id)

    def _settled(self, request_id: int) -> messages.Message:
        reply = self._replies.pop(request_id)
        if isinstance(reply, messages.Error):
            raise reply.exception()
        return reply

    def forget(self) -> None:
        """Close the connection and give up what is unanswered; the store is told when that needs no
        waiting. After a fork the child tells nothing: it is its parent who waits for the answers.
        """
        given_up = self.unanswered if self._pid == os.getpid() else ()
        farewell = b"".join(messages.encode(messages.Cancel(one)) for one in given_up)
        self.unanswered.clear()
        self._replies.clear()
        self.link.abort(farewell)

    def refuse_child(self, what: str) -> None:
        """raises InvalidRequest in a process forked since: both would read each other's replies"""
        if self._pid != os.getpid():
            raise InvalidRequest(
                f"this {what} belongs to the process that made it: make another one after the fork",
                pid=self._pid,
            )

    def connect(self, until_s: float) -> Steps[None]:
        """Connect, greet, restore and resend, again and again until it works or until_s has passed.

        raises Unavailable; at once where no connection was ever made
        """
        while not self.link.connected:
            if self._failures:
                yield from self._pause(until_s)
            try:
                yield from self._connect_once(until_s)
            except LinkBroken as error:
                self._failures += 1
                if self.welcome is None:
                    raise self._unavailable(str(error)) from error
            except Timeout as error:
                raise self._late() from error

    def _connect_once(self, until_s: float) -> Steps[None]:
        yield Connect(self.link, self.path, until_s)
        try:
            welcome = yield from self.direct(self.hello, until_s)
            if not isinstance(welcome, messages.Welcome):
                raise ProtocolError(f"expected Welcome, the store sent {type(welcome).__name__}")
            self.welcome = welcome
            if self._restore is not None:
                yield from self._restore(self, until_s)
            for request_id, message in list(self.unanswered.items()):
                yield self._send(request_id, message, until_s)
        except BaseException:
            self.link.abort()
            raise

    def direct(self, message: messages.Message, until_s: float) -> Steps[messages.Message]:
        """A request while nothing else is under way on this connection and that is not to be resent."""
        request_id = self._new_id()
        yield self._send(request_id, message, until_s)
        while request_id not in self._replies:
            self._take((yield Receive(self.link, until_s)), awaited=request_id)
        return self._settled(request_id)

    def _new_id(self) -> int:
        request_id, self._next_id = self._next_id, self._next_id + 1
        return request_id

    def _send(self, request_id: int, message: messages.Message, until_s: float) -> Send:
        return Send(self.link, self._parts(request_id, message), until_s)

    def _parts(self, request_id: int, message: messages.Message) -> list[Bin]:
        adapted = message if self._adapt is None else self._adapt(message)
        return messages.encode_parts(adapted, request_id)

    def _receive(self, until_s: float) -> Steps[None]:
        yield from self.connect(until_s)
        try:
            self._take((yield Receive(self.link, until_s)))
        except LinkBroken:
            self._failures += 1
        except Timeout as error:
            raise self._late() from error

    def _take(self, received: list[tuple[int, messages.Message]], awaited: int = 0) -> None:
        for request_id, message in received:
            if request_id == 0 and isinstance(message, messages.Error):
                self.link.abort()
                raise message.exception()
            if request_id not in self.unanswered and request_id != awaited:
                self.link.abort()
                raise ProtocolError(
                    f"the store answered request {request_id}, which was never sent or is answered"
                )
            if isinstance(message, messages.Error) and message.code == Unavailable.code:
                # The worker is going away; another one, or its successor, will take the request.
                self.link.abort()
                raise _GoesAway(message.message)
            self.unanswered.pop(request_id, None)
            self._replies[request_id] = message
            self._failures = 0 if request_id != awaited else self._failures

    def _pause(self, until_s: float) -> Steps[None]:
        import random  # a connection that breaks is rare

        pause_s = min(PAUSE_S_FIRST * 2 ** (self._failures - 1), PAUSE_S_MAX) * random.uniform(0.5, 1.0)
        if clock.monotonic_s() + pause_s >= until_s:
            raise self._unavailable(f"gave up after {self._failures} broken connections")
        yield Sleep(pause_s)

    def _late(self) -> Timeout:
        """What a time-out leaves open: of writes, unless not even the greeting was answered."""
        text = f"no answer in time at {self.path}"
        writes = messages.Lines | messages.Columns | messages.Rows
        if self.welcome is not None and any(isinstance(one, writes) for one in self.unanswered.values()):
            text += "; a write may or may not have been stored, writing it again is safe"
        return Timeout(text, path=self.path)

    def _unavailable(self, why: str) -> MstoreError:
        text = f"no store answers at {self.path} ({why}); `mstore serve` starts one"
        return Unavailable(text, path=self.path)

"""The reply to a request that failed, the same wherever requests are served."""

from __future__ import annotations

import logging

from mstore.errors import MstoreError, ProtocolError
from mstore.ipc import messages as m

log = logging.getLogger(__name__)


def reply_to(message: m.Message, error: Exception, who: str) -> m.Error:
    """What the sender of `message` is told; the other requests of its connection go on.

    An error that nobody thought of is logged with its story: one request must not take down `who` serves all
    others, nor leave its own sender waiting.
    raises `error` itself when it is a ProtocolError: nothing that follows on that connection can be trusted
    """
    if isinstance(error, ProtocolError):
        raise error
    if isinstance(error, MstoreError):
        return m.Error.of(error)
    log.error("no reply to a request of type %s", type(message).__name__, exc_info=error)
    return m.Error(MstoreError.code, f"{who} failed: {type(error).__name__}: {error}")

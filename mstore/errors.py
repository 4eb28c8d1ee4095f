"""Every error mstore raises, and the code each one carries across a socket.

An error is (code, message, details). The code is the class's public name in the protocol; a client raises
the same class that the server raised. A leaf is also the builtin that a caller would naturally catch.
Messages say what was wrong, what was expected and what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar


class MstoreError(Exception):
    """Base of all errors; `details` is a plain dict of msgpack-able values."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, /, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.details))


class ConfigError(MstoreError, ValueError):
    """A configuration key or value that is not allowed; names the key, the value and what is allowed."""

    code = "config"


class InvalidRequest(MstoreError, ValueError):
    """A request whose arguments make no sense; the sub-classes say which."""

    code = "invalid_request"


class InvalidTimeRange(InvalidRequest):
    code = "invalid_time_range"


class InvalidStep(InvalidRequest):
    code = "invalid_step"


class NotAggregatable(InvalidRequest):
    """More than one child was asked to become one series of a metric without an aggregation."""

    code = "not_aggregatable"


class EmptyCluster(InvalidRequest):
    """No cluster was named where one is needed."""

    code = "empty_cluster"


class UnknownSelector(MstoreError, LookupError):
    """A cluster that nobody has written to. Hosts and ids that do not exist are answered, by empty entries."""

    code = "unknown_selector"


class NoData(MstoreError, LookupError):
    """A number was asked for where there is no sample to take it from."""

    code = "no_data"


class UnknownMetric(MstoreError, LookupError):
    code = "unknown_metric"


class UnknownHandle(MstoreError, LookupError):
    """A columns frame used a handle that this connection never opened, or whose series is gone."""

    code = "unknown_handle"


class ProtocolError(MstoreError):
    """The peer broke the protocol; the connection is closed after this error."""

    code = "protocol"


class FrameTooLarge(ProtocolError):
    code = "frame_too_large"


class UnknownMessage(ProtocolError):
    code = "unknown_message"


class VersionMismatch(ProtocolError):
    code = "version_mismatch"


class StoreFull(MstoreError, MemoryError):
    """Shared memory or the memory cap is exhausted and nothing may be evicted."""

    code = "store_full"


class SeriesLimit(MstoreError):
    """max_series series exist already."""

    code = "series_limit"


class LimitExceeded(MstoreError):
    """A request would exceed a bound of limits.py (samples, series, bytes)."""

    code = "limit_exceeded"


class LayoutMismatch(MstoreError):
    """A segment was written by another layout, store or boot than this process expects."""

    code = "layout_mismatch"


class CorruptRecord(MstoreError):
    """A record of a log or snapshot that fails its checks; `details` holds path and offset."""

    code = "corrupt_record"


class InvariantBroken(MstoreError, AssertionError):
    """validate() found a structure that breaks its own rules: a bug, or damaged memory."""

    code = "invariant_broken"


class StoreLocked(MstoreError, BlockingIOError):
    """Another mstore process holds this directory."""

    code = "store_locked"


class StorageError(MstoreError, OSError):
    """The operating system refused a file operation the store cannot do without."""

    code = "storage"


class ArchiveError(MstoreError):
    """The archive, or a part of it, cannot be written or read; the message names the file and what is wrong."""

    code = "archive"


class Degraded(MstoreError):
    """The store serves reads but does not acknowledge writes; details say why."""

    code = "degraded"


class Unavailable(MstoreError, ConnectionError):
    """No store answers at this directory, or the connection broke."""

    code = "unavailable"


class Timeout(Unavailable, TimeoutError):
    """No answer within the deadline. A write may or may not have been stored; sending it again is safe. An order may
    still be carried out."""

    code = "timeout"


class Cancelled(MstoreError):
    """The request was cancelled by its sender."""

    code = "cancelled"


class NotPermitted(MstoreError, PermissionError):
    code = "not_permitted"


class MissingLibrary(MstoreError, ImportError):
    """A library that mstore can do without, and that this needs, is not installed; the message says how to."""

    code = "missing_library"


class UnsupportedPlatform(MstoreError, OSError):
    code = "unsupported_platform"


def shortened(text: str, chars_max: int = 60) -> str:
    """A value as a message shows it: its start alone when it is long."""
    return text if len(text) <= chars_max else f"{text[: chars_max - 3]}..."


def _rebuild(cls: type[MstoreError], message: str, details: dict[str, Any]) -> MstoreError:
    return cls(message, **details)


def _leaves(cls: type[MstoreError]) -> dict[str, type[MstoreError]]:
    found = {cls.code: cls}
    for child in cls.__subclasses__():
        found.update(_leaves(child))
    return found


BY_CODE: dict[str, type[MstoreError]] = _leaves(MstoreError)


def from_wire(code: str, message: str, details: dict[str, Any]) -> MstoreError:
    """The exception for an error message; a code of a newer version becomes a plain MstoreError."""
    cls = BY_CODE.get(code, MstoreError)
    return cls(message, **{str(key): value for key, value in details.items()})

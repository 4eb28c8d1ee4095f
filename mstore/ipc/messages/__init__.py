"""The messages of the protocol: one dataclass and one tag each, and their msgpack codec.

    connection.py   greeting, cancelling, errors         writing.py   ingest.sock
    following.py    query.sock, subscriptions
    asking.py       query.sock                           control.py   control.sock, an operator's requests
    interning.py    control.sock, between processes      codec.py     messages <-> frames
    selecting.py    query.sock, many series at once      jobs.py          query.sock, jobs and nodes
    life.py         control.sock and query.sock, what is kept and what goes
    archiving.py    control.sock, the archive            words.py     what fields choose from
    listing.py      query.sock, which series there are   tags.py      which module has which message, and its tag

docs/format/ipc.md says what each message means. Only connection.py is loaded with the package: tags.py says why.

Growth without a new version: new fields are added at the end and have defaults. A decoder fills in missing
fields that have defaults and passes over fields beyond those it knows. Everything else (unknown tag, wrong
type, value out of its range, too few fields) is a ProtocolError: nothing is guessed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mstore.ipc.messages.base import OLDEST_VERSION, VERSION, Message
from mstore.ipc.messages.codec import (
    decode,
    decode_frame,
    encode,
    encode_body,
    encode_parts,
    fields_of,
    of_fields,
)
from mstore.ipc.messages.connection import (
    Cancel,
    Done,
    Error,
    Hello,
    Info,
    InfoReply,
    Ping,
    Welcome,
    plain,
)
from mstore.ipc.messages.tags import TAGS, home
from mstore.ipc.messages.words import (
    ACKS,
    HANDLE_NONE,
    MEMORY,
    PRECISIONS,
    ROLES,
    TYPE_BYTES,
    TYPE_F32,
    TYPE_F64,
    TYPE_U64,
)

if TYPE_CHECKING:
    from mstore.ipc.messages.archiving import ArchiveNow
    from mstore.ipc.messages.asking import Answer, Children, MetricList, Metrics, Names, Paths, Query
    from mstore.ipc.messages.control import Hold, Reload, Restart, Snapshot, States, Stop
    from mstore.ipc.messages.following import Follow, FollowBegun, Followed, FollowedSamples, FollowMissed
    from mstore.ipc.messages.interning import Intern, Interned, InternPaths
    from mstore.ipc.messages.jobs import (
        CheckHealth,
        ClusterList,
        Clusters,
        Fetch,
        FetchAnswer,
        HealthAnswer,
        Load,
        LoadAnswer,
    )
    from mstore.ipc.messages.life import DebugDump, ForceFree, Free, Protect, Protected, SizeList, Sizes, Text
    from mstore.ipc.messages.listing import HostSeries, SeriesPaths
    from mstore.ipc.messages.selecting import (
        Levels,
        QueryMany,
        Select,
        SelectAbove,
        SelectLatest,
        SelectSeries,
        SelectStats,
        SelectTop,
        Stacked,
        Tables,
    )
    from mstore.ipc.messages.writing import Columns, Lines, Open, Opened, Rows, Written
else:

    def __getattr__(name: str) -> type[Message]:
        try:
            found = getattr(home(name), name)
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        globals()[name] = found
        return found


__all__ = [
    "ACKS",
    "HANDLE_NONE",
    "MEMORY",
    "OLDEST_VERSION",
    "PRECISIONS",
    "ROLES",
    "TAGS",
    "TYPE_BYTES",
    "TYPE_F32",
    "TYPE_F64",
    "TYPE_U64",
    "VERSION",
    "Answer",
    "ArchiveNow",
    "Cancel",
    "CheckHealth",
    "Children",
    "ClusterList",
    "Clusters",
    "Columns",
    "DebugDump",
    "Done",
    "Error",
    "Fetch",
    "FetchAnswer",
    "Follow",
    "FollowBegun",
    "FollowMissed",
    "Followed",
    "FollowedSamples",
    "ForceFree",
    "Free",
    "HealthAnswer",
    "Hello",
    "Hold",
    "HostSeries",
    "Info",
    "InfoReply",
    "Intern",
    "InternPaths",
    "Interned",
    "Levels",
    "Lines",
    "Load",
    "LoadAnswer",
    "Message",
    "MetricList",
    "Metrics",
    "Names",
    "Open",
    "Opened",
    "Paths",
    "Ping",
    "Protect",
    "Protected",
    "Query",
    "QueryMany",
    "Reload",
    "Restart",
    "Rows",
    "Select",
    "SelectAbove",
    "SelectLatest",
    "SelectSeries",
    "SelectStats",
    "SelectTop",
    "SeriesPaths",
    "SizeList",
    "Sizes",
    "Snapshot",
    "Stacked",
    "States",
    "Stop",
    "Tables",
    "Text",
    "Welcome",
    "Written",
    "decode",
    "decode_frame",
    "encode",
    "encode_body",
    "encode_parts",
    "fields_of",
    "of_fields",
    "plain",
]

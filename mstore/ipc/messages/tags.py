"""The table of the protocol: which module defines a message, and the message's tag.

A module is loaded when one of its messages is first named (messages.Query), or comes in. Making all the classes takes
longer than everything else that a client loads, and one that asks a question needs two of these modules.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Final

_MODULES: Final = {
    "connection": {
        "Hello": 1, "Welcome": 2, "Info": 23, "InfoReply": 24, "Cancel": 25, "Ping": 26, "Done": 27, "Error": 31,
    },
    "writing": {"Lines": 3, "Written": 4, "Open": 5, "Opened": 6, "Columns": 7, "Rows": 8},
    "asking": {
        "Query": 16, "Answer": 17, "Children": 18, "Paths": 19, "Names": 20, "Metrics": 21, "MetricList": 22,
    },
    "interning": {"Intern": 40, "Interned": 41, "InternPaths": 42},
    "control": {"Stop": 44, "Restart": 45, "Reload": 46, "Snapshot": 47, "Hold": 49, "States": 50},
    "selecting": {
        "Select": 60, "Levels": 61, "SelectLatest": 62, "SelectAbove": 63, "SelectStats": 64, "SelectTop": 65,
        "SelectSeries": 66, "QueryMany": 67, "Stacked": 68, "Tables": 69,
    },
    "jobs": {
        "Clusters": 70, "ClusterList": 71, "Fetch": 72, "FetchAnswer": 73, "Load": 74, "LoadAnswer": 75,
        "CheckHealth": 76, "HealthAnswer": 77,
    },
    "following": {"Follow": 80, "FollowBegun": 81, "Followed": 82, "FollowedSamples": 83, "FollowMissed": 84},
    "life": {
        "Protect": 90, "Free": 91, "ForceFree": 92, "Protected": 93, "Sizes": 94, "SizeList": 95, "DebugDump": 96,
        "Text": 97,
    },
    "archiving": {"ArchiveNow": 100},
    "listing": {"HostSeries": 105, "SeriesPaths": 106},
}  # fmt: skip

TAG_OF: Final = {name: tag for messages in _MODULES.values() for name, tag in messages.items()}
NAME_OF: Final = {tag: name for name, tag in TAG_OF.items()}
TAGS: Final = frozenset(NAME_OF)
"""All tags: what a FrameDecoder may be told to accept."""
_MODULE_OF: Final = {name: module for module, messages in _MODULES.items() for name in messages}

assert len(TAGS) == sum(map(len, _MODULES.values())), "two messages have the same name or tag"


def home(name: str) -> ModuleType:
    """The module that defines a message. raises KeyError when there is no such message"""
    return import_module(f"mstore.ipc.messages.{_MODULE_OF[name]}")

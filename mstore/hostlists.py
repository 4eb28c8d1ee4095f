"""Hostlists: many names of hosts as one text, such as "f[0101-0188],login1", and the natural order of names."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence

from mstore.errors import ConfigError, InvalidRequest, shortened

HOSTS_MAX = 1_000_000
_BLANKS = " \t\r\n"


def expand(hostlist: str, names_max: int = HOSTS_MAX) -> list[str]:
    """The hosts of "f[0101-0103,0201],login1", in the order written.

    Brackets hold numbers and ranges; a leading zero of a range's first number fixes the width ("[08-11]" is
    08, 09, 10, 11). A name may have several brackets and text after them: "r[1-2]n[1-4]-ib".
    raises ConfigError: unbalanced brackets, a range that runs backwards, more than names_max hosts
    """
    hosts: list[str] = []
    for part in _split(hostlist):
        pieces = re.split(r"\[([^\[\]]*)\]", part)
        if any(char in piece for piece in pieces[::2] for char in "[]"):
            raise _bad_hostlist(hostlist, "brackets must be balanced and not nested")
        choices = [
            _numbers(hostlist, piece, names_max) if i % 2 else [piece] for i, piece in enumerate(pieces)
        ]
        if len(hosts) + math.prod(len(choice) for choice in choices) > names_max:
            raise _bad_hostlist(hostlist, f"more than {names_max} hosts")
        hosts += ["".join(combination) for combination in itertools.product(*choices)]
    return hosts


def hosts_asked(nodes: str | Sequence[str] | None) -> list[str] | None:
    """The hosts that a question names, as names or as a hostlist; None = all. raises InvalidRequest for a bad hostlist"""
    if nodes is None or not isinstance(nodes, str):
        return None if nodes is None else list(nodes)
    try:
        return expand(nodes)
    except ConfigError as error:
        raise InvalidRequest(str(error)) from None


def fold(hosts: Iterable[str]) -> str:
    """A hostlist for a set of hosts: names in natural order, the last number of each folded.

    raises ConfigError for a name that a hostlist cannot hold (brackets, commas, blanks, empty)
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for host in sorted(set(hosts), key=natural_key):
        if not host or re.search(r"[\[\],\s]", host):
            raise _bad_hostlist(host, "a host name without brackets, commas and blanks")
        match = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", host, re.ASCII)
        prefix, digits, suffix = match.groups() if match else (host, "", "")
        groups.setdefault((prefix, suffix), []).append(digits)
    return ",".join(
        prefix + (_fold_digits(digits) if digits != [""] else "") + suffix
        for (prefix, suffix), digits in groups.items()
    )


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts core2 before core10, and 08 before 8."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((1, int(part), part) if index % 2 else (0, 0, part) for index, part in enumerate(parts))


def _split(hostlist: str) -> Iterator[str]:
    """The comma-separated parts; commas inside brackets do not count."""
    depth, start = 0, 0
    for position, char in enumerate(hostlist + ","):
        depth += (char == "[") - (char == "]")
        if char == "," and depth <= 0:
            part = hostlist[start:position].strip(_BLANKS)
            if part:
                yield part
            elif hostlist.strip(_BLANKS):
                raise _bad_hostlist(hostlist, "an empty name between commas")
            start = position + 1
    if depth > 0:
        raise _bad_hostlist(hostlist, "a closing bracket is missing")


def _numbers(hostlist: str, bracket: str, names_max: int) -> list[str]:
    found: list[str] = []
    for item in bracket.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,12})(?:-([0-9]{1,12}))?\s*", item, re.ASCII)
        if match is None:
            raise _bad_hostlist(hostlist, f"[{bracket}] must hold numbers and ranges, such as [01-08,12]")
        low, high = match[1], match[2] or match[1]
        if int(low) > int(high):
            raise _bad_hostlist(hostlist, f"the range {low}-{high} runs backwards")
        if len(found) + int(high) - int(low) >= names_max:
            raise _bad_hostlist(hostlist, f"more than {names_max} hosts")
        found += [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]
    return found


def _fold_digits(digits: list[str]) -> str:
    """Sorted digit texts of one (prefix, suffix) -> "[01-08,12]"; a single number needs no brackets."""
    if len(digits) == 1:
        return digits[0]
    # By width first: only texts of one width, or those that follow an unpadded one, can share a range.
    runs: list[list[str]] = []
    for text in sorted(digits, key=lambda text: (len(text), text)):
        if runs and str(int(runs[-1][-1]) + 1).zfill(len(runs[-1][0])) == text:
            runs[-1].append(text)
        else:
            runs.append([text])
    return "[" + ",".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) + "]"


def _bad_hostlist(hostlist: str, reason: str) -> ConfigError:
    shown = shortened(hostlist, 80)
    return ConfigError(f"bad hostlist {shown!r}: {reason}", value=shown)

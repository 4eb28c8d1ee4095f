"""A late sample belongs to the era of its time: stored in the type of that era, bit for bit, or refused at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import permutations

import numpy as np

import mstore
from mstore import limits
from tests.process.test_known_faults import power_off
from tests.stores import Server, until

Serve = Callable[..., Server]
Values = dict[tuple[str, int], bytes]
"""(type, nominal time) -> the value's bytes"""

STEP_S = 60
DTYPES = {"f32": np.dtype("<f4"), "f64": np.dtype("<f8"), "u64": np.dtype("<u8")}
CHANGES = list(permutations(DTYPES, 2))
TEXTS = (
    "0.1", "1e300", "1e309", "-1", "0.5", "16777217", "9007199254740993", "18446744073709551614",
    "3.4028235e38", "3.4028236e38", "-2.5",
)  # fmt: skip
"""Numbers of which each type lacks some, and rounds others."""
SENT = {
    "f32": np.array([0.5, -1, 16777216, 3], "<f4"),
    "f64": np.array([0.1, 1e300, 3.4028235e38, 2.0**53, -1, 2.0**64], "<f8"),
    "u64": np.array([2**53 + 1, 2**64 - 2, 3], "<u8"),
}


def cast(number: str | np.generic, kind: str) -> bytes | None:
    """A number as a value of a type, text rounded to a double first; None where the type has no such number."""
    if kind == "u64":
        whole = isinstance(number, str) and number.isdigit()
        value = int(number) if whole else float(number)
        return np.uint64(value).tobytes() if 0 <= value < 2**64 - 1 and value == int(value) else None
    with np.errstate(over="ignore"):
        rounded = np.array(float(number)).astype(DTYPES[kind])
    return rounded.tobytes() if np.isfinite(rounded) else None


def metric(old: str, new: str) -> str:
    return f"{old}_{new}"


def config(types: dict[str, str], step_s: int = STEP_S, more: str = "") -> str:
    """types  by metric"""
    return f'{more}unknown_metrics = "register"\n' + "".join(
        f'[metrics.{name}]\nstep = {step_s}\ntype = "{kind}"\n' for name, kind in types.items()
    )


def reload(server: Server, text: str, n_eras: int) -> None:
    """A changed configuration, until so many new eras have begun in all."""
    (server.directory / "mstore.toml").write_text(text)
    with server.client() as client:
        client.control("reload")
    until(lambda: server.info()["counters"]["eras_started"] == n_eras, "the new eras")


def line(name: str, value: str, t: int, host: str = "h") -> str:
    return f"{name},cluster=c,hostname={host} value={value} {t}\n"


def stored(server: Server, name: str, host: str = "h") -> Values:
    """Every value of a host's series."""
    found = {}
    with mstore.attach(server.directory) as reader:
        for view in reader.chunks("c", host, name):
            kind = next(name for name, dtype in DTYPES.items() if dtype == view.values.dtype)
            missing = view.values == np.uint64(2**64 - 1) if kind == "u64" else np.isnan(view.values)
            for i in np.flatnonzero(~missing):
                found[kind, int(view.start + i * view.step)] = view.values[i].tobytes()
    return found


def assert_kept(server: Server, expected: dict[str, Values]) -> None:
    """These values and no others: now, in adopted memory, and from the files."""

    def check() -> None:
        assert {name: stored(server, name) for name in expected} == expected
        assert server.info()["counters"]["stale_samples"] == 0

    check()
    for end in (Server.kill, power_off):
        end(server)
        server.start()
        check()
    server.stop()
    command = [sys.executable, "-m", "mstore", "check", "--dir", str(server.directory)]
    assert subprocess.run(command, capture_output=True).returncode == 0


def changed_store(serve: Serve, t0: int) -> tuple[Server, dict[str, Values]]:
    """A store with a metric for every change of type, which was made after a sample at t0; and what is in it."""
    server = serve(config({metric(old, new): old for old, new in CHANGES}))
    first = "".join(line(metric(old, new), "7", t0) for old, new in CHANGES)
    assert server.send_text(first.encode()).startswith(b"written=6 ")
    reload(server, config({metric(old, new): new for old, new in CHANGES}), len(CHANGES))
    return server, {metric(old, new): {(old, t0): cast("7", old) or b""} for old, new in CHANGES}


def test_a_late_line_is_stored_as_its_era_rounds_it_or_refused(serve: Serve, now: int) -> None:
    t0 = now - 3600
    server, expected = changed_store(serve, t0)
    with server.client() as client:
        for k, text in enumerate(TEXTS):
            for way in range(3):
                t = t0 - STEP_S * (3 * k + way + 1)
                sent = refused = ""
                for old, new in CHANGES:
                    name = metric(old, new)
                    value = cast(text, old)
                    # A known key; one that has to be asked for first; a line that is not plain, in a frame.
                    one = (
                        line(name, text, t)
                        .replace("c,", f"c,x={k},", way == 1)
                        .replace(" value", "  value", way == 2)
                    )
                    if value is None:
                        refused += one
                    else:
                        sent += one
                        expected[name][old, t] = value
                n, n_refused = sent.count("\n"), refused.count("\n")
                if way == 2:
                    result = client.write(sent + refused)
                    assert (result.written, result.reasons) == (
                        n,
                        {"out_of_range": n_refused} if n_refused else {},
                    )
                else:
                    answer = server.send_text((refused + sent).encode())
                    assert answer.startswith(f"written={n} rejected={n_refused} ".encode()), (text, way)
                    assert answer.endswith(f" out_of_range={n_refused}\n".encode()) or not n_refused
            if k == len(TEXTS) // 2:
                client.control("snapshot")
    for old, new in CHANGES:
        assert server.send_text(line(metric(old, new), "3", t0 + 600).encode()).startswith(b"written=1 ")
        expected[metric(old, new)][new, t0 + 600] = cast("3", new) or b""
    assert_kept(server, expected)


def test_late_columns_are_stored_as_their_eras_round_them_or_refused(serve: Serve, now: int) -> None:
    """Two series in each frame, of which one has an older era; late values come in the new type."""
    t0 = now - 3600
    server, expected = changed_store(serve, t0)
    with server.client() as client, client.writer() as writer:
        for old, new in CHANGES:
            name, sent = metric(old, new), SENT[new]
            times = [t0 - STEP_S * (k + 1) for k in range(len(sent))]
            kept = {(old, t): cast(value, old) for t, value in zip(times, sent, strict=True)}
            refused = list(kept.values()).count(None)
            writer.write(
                writer.open([("c", "h", name), ("c", "other", name)]), times, np.array([sent, sent]).T
            )
            result = writer.flush()
            assert (result.written, result.rejected) == (2 * len(sent) - refused, refused), name
            assert result.reasons == ({"out_of_range": refused} if refused else {})
            assert stored(server, name, "other") == {
                (new, t): value.tobytes() for t, value in zip(times, sent, strict=True)
            }
            expected[name].update({at: value for at, value in kept.items() if value is not None})
    assert_kept(server, expected)


def test_a_late_sample_of_an_era_between_two_others_is_in_its_type(serve: Serve, now: int) -> None:
    """f64, then f32, then u64: each sample goes to the era of its time, over two changes."""
    server = serve(config({"m": "f64"}))
    t0 = now - 7200
    for n, (kind, t) in enumerate((("f32", t0), ("u64", t0 + 1200)), start=1):
        assert server.send_text(line("m", "1", t).encode()).startswith(b"written=1 ")
        reload(server, config({"m": kind}), n)
    late = (("f64", "0.1", t0 - 60), ("f32", "0.1", t0 + 600), ("f64", "1e300", t0 - 120))
    assert server.send_text("".join(line("m", *one[1:]) for one in late).encode()).startswith(b"written=3 ")
    answer = server.send_text((line("m", "1e300", t0 + 660) + line("m", "0.5", t0 + 2400)).encode())
    assert answer.startswith(b"written=0 rejected=2 ")
    assert answer.endswith(b" out_of_range=2\n")
    kept = (("f64", "1", t0), ("f32", "1", t0 + 1200), *late)
    assert_kept(server, {"m": {(kind, t): cast(text, kind) or b"" for kind, text, t in kept}})


def test_a_late_sample_of_an_era_with_another_step_keeps_its_slot_and_reaches_as_far_back_as_that(
    serve: Serve, now: int
) -> None:
    """The newer grid has long slots and would reach further back than the older one can hold."""
    keep = 'retention = "0"\n'
    server = serve(config({"m": "f64", "columns": "f64"}, 1, keep))
    t0 = now - 3600
    assert server.send_text((line("m", "7", t0) + line("columns", "7", t0)).encode()).startswith(
        b"written=2 "
    )
    reload(server, config({"m": "f64", "columns": "f64"}, 3600, keep), 2)
    reach = t0 - limits.SERIES_SLOTS_MAX
    late = [t0 - 2, t0 - 1, reach + 7200]
    expected = {("f64", t): cast(str(k), "f64") or b"" for k, t in enumerate(late)}
    text = "".join(line("m", str(k), t) for k, t in enumerate([*late, reach - 7200]))
    answer = server.send_text(text.encode())
    assert answer.startswith(b"written=3 rejected=1 ")
    assert answer.endswith(b" too_late=1\n")
    with server.client() as client, client.writer() as writer:
        handles = writer.open([("c", "h", "columns")])
        writer.write(handles, [*late, reach - 7200], np.arange(4.0)[:, None])
        result = writer.flush()
    assert (result.written, result.rejected, result.reasons) == (3, 1, {"too_late": 1})
    expected["f64", t0] = cast("7", "f64") or b""
    assert_kept(server, {"m": expected, "columns": expected})

"""The grid of a series, through a real store: chunk borders, a collector whose phase moves, a kill in between."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

import mstore
from tests.process.test_known_faults import power_off
from tests.stores import Server

Serve = Callable[..., Server]
End = Callable[[Server], None]
ENDS = pytest.mark.parametrize(
    "end", [Server.kill, power_off], ids=["memory is taken over", "files are read"]
)

STEP = 60


def stored(client: mstore.Client, start: int, end: int, host: str = "h") -> dict[int, float]:
    """Nominal time -> value of a host's m."""
    series = client.query("c", host, "m", start, end)
    return dict(zip(series.times[series.valid].tolist(), series.values[series.valid].tolist(), strict=True))


def text_of(samples: list[tuple[int, int]], host: str = "h") -> str:
    return "".join(f"m,cluster=c,hostname={host} value={value} {t}\n" for t, value in samples)


@ENDS
def test_samples_on_both_sides_of_every_chunk_border_are_kept_in_any_order_of_arrival(
    serve: Serve, now: int, seed: int, end: End
) -> None:
    server = serve('retention = "0"\nunknown_metrics = "register"\n')
    t0 = now - 3000 * STEP
    places = [
        place
        for border in (-1536, -1024, -512, 0, 512, 1024, 1536)
        for place in (border - 2, border - 1, border, border + 1)
        if place
    ]
    random.Random(seed).shuffle(places)
    rng = random.Random(seed)
    # Off by any amount within the slot: [nominal - 30, nominal + 30).
    samples = [(t0, 0)] + [(t0 + place * STEP + rng.randrange(-30, 30), place) for place in places]
    wanted = {t0 + place * STEP: float(place) for place in [0, *places]}
    with server.client() as client:
        for one in samples:
            assert client.write(text_of([one])).written == 1
        assert stored(client, t0 - 2000 * STEP, t0 + 2000 * STEP) == wanted
        series = client.query("c", "h", "m", t0 - 2000 * STEP, t0 + 2000 * STEP)
        assert (series.start, len(series)) == (t0 - 2000 * STEP, 4000)
        assert client.query("c", "h", "m", t0 + 511 * STEP, t0 + 513 * STEP).values.tolist() == [511, 512]
        assert client.query("c", "h", "m", t0 - 513 * STEP, t0 - 511 * STEP).values.tolist() == [-513, -512]
    end(server)
    server.start()
    assert server.info()["last_recovery"]["adopted"] == (end is Server.kill)
    with server.client() as client:
        assert stored(client, t0 - 2000 * STEP, t0 + 2000 * STEP) == wanted
        # The anchor is not derived again: what comes after the replay falls into the same slots.
        client.write(text_of([(t0 + 512 * STEP - 30, 1), (t0 + 512 * STEP - 31, 2)]))
        found = stored(client, t0 + 510 * STEP, t0 + 514 * STEP)
        assert (found[t0 + 511 * STEP], found[t0 + 512 * STEP]) == (2, 1)


def drifting(t0: int, n: int, moved: int, rng: random.Random) -> list[tuple[int, int]]:
    """(time, number) of a collector that sends on slot borders from its sample `moved` on, a second early or late.

    Neighbours then fall into one slot, with a hole beside it.
    """
    return [(t0 + k * STEP + (STEP // 2 + rng.choice((-1, 1)) if k >= moved else 0), k) for k in range(n)]


def assert_whole_from_its_era_on(server: Server, host: str, samples: list[tuple[int, int]]) -> list[int]:
    """Starts of the chunks; what was lost lies before the first slot of the new grid."""
    t0 = samples[0][0]
    with mstore.attach(server.directory) as reader:
        views = list(reader.chunks("c", host, "m"))
        kept = {int(value) for view in views for value in view.values[~np.isnan(view.values)]}
        starts = [view.start for view in views]
    era = next(start for start in starts if (start - t0) % STEP)
    assert all((start - t0) % STEP == 0 for start in starts[: starts.index(era)])
    assert era < t0 + 1100 * STEP
    lost = [t for t, k in samples if k not in kept]
    assert lost
    assert max(lost) < era - STEP
    with server.client() as client:
        found = list(stored(client, era, samples[-1][0] + STEP, host).values())
    assert found == [k for t, k in samples if t >= era - STEP // 2]
    return starts


@ENDS
def test_a_collector_whose_phase_moved_loses_nothing_once_its_new_grid_has_begun_also_after_a_kill(
    serve: Serve, now: int, seed: int, end: End
) -> None:
    rng = random.Random(seed)
    server = serve('retention = "0"\nunknown_metrics = "register"\n')
    t0 = (now - 3000 * STEP) // STEP * STEP
    hosts = {f"h{i}": drifting(t0, 1600, 40, rng) for i in range(8)}
    with server.client(ack="memory") as client:
        for i in range(0, 1400, 7):
            text = "".join(text_of(samples[i : i + 7], host) for host, samples in hosts.items())
            assert client.write(text).written == 7 * len(hosts)
    starts = {
        host: assert_whole_from_its_era_on(server, host, samples[:1400]) for host, samples in hosts.items()
    }
    end(server)
    server.start()
    assert server.info()["last_recovery"]["adopted"] == (end is Server.kill)
    for host, samples in hosts.items():
        assert assert_whole_from_its_era_on(server, host, samples[:1400]) == starts[host]
        with server.client() as client:
            assert client.write(text_of(samples[1400:], host)).written == 200
        assert assert_whole_from_its_era_on(server, host, samples)[: len(starts[host])] == starts[host]

"""Series that nobody uses any more are taken out of a running store, and their slots are used again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.process.test_known_faults import power_off
from tests.stores import Server, until

Serve = Callable[..., Server]
CONFIG = 'retention = "5s"\n[metrics.event]\nstep = 0\n'


def lines(prefix: str, n: int) -> str:
    return "".join(f"event,cluster=c,hostname={prefix}{i} value={i}\n" for i in range(n))


def test_idle_series_are_removed_and_their_slots_used_again_also_after_a_kill(serve: Serve) -> None:
    server = serve(CONFIG)
    stop = threading.Event()
    written: list[int] = []

    def keep_writing() -> None:
        with server.client() as client:
            while not stop.is_set():
                result = client.write("event,cluster=c,hostname=busy value=1\n")
                written.append(result.written)
                time.sleep(0.05)

    with server.client() as client:
        assert client.write(lines("a", 500)).written == 500
        thread = threading.Thread(target=keep_writing)
        thread.start()
        try:
            until(lambda: server.info()["counters"]["series_removed"] >= 500, "all removals", 60)
            counts = server.info()["counts"]
            assert counts["live_series"] == 1
            assert client.children("c") == ["busy"], "hosts that are gone are in no listing"
            assert client.paths(2) == [("c", "busy")]
            assert client.write(lines("b", 400)).written == 400
            assert client.write(lines("a", 50)).written == 50
            after = server.info()["counts"]
            assert (after["live_series"], after["n_series"]) == (451, counts["n_series"])
            found = client.query("c", "a49", "event", int(time.time()) - 4, int(time.time()) + 1)
            assert found.values.tolist() == [49.0]
            assert len(client.children("c")) == 451
        finally:
            stop.set()
            thread.join()
    assert set(written) == {1}
    assert server.info()["counters"]["stale_samples"] == 0
    (server.directory / "mstore.toml").write_text(CONFIG.replace('"5s"', '"1h"'))
    for end in (Server.kill, power_off):  # memory is taken over, files are read
        end(server)
        server.start()
        assert server.info()["last_recovery"]["adopted"] == (end is Server.kill)
        assert server.info()["counts"]["live_series"] == 451
        with server.client() as client:
            assert len(client.children("c")) == len(client.paths(2)) == 451
            now = int(time.time())
            assert len(client.query("c", "a300", "event", now - 300, now + 1)) == 0
            assert client.query("c", "b399", "event", now - 300, now + 1).values.tolist() == [399.0]


def test_what_is_older_than_retention_is_not_served_though_its_chunk_is_there(serve: Serve) -> None:
    server = serve('retention = "8s"\ndefault_step = 1\n')
    now = int(time.time())
    with server.client() as client:
        text = "".join(f"m,cluster=c,hostname=h value={k} {now - 6 + k}\n" for k in range(6))
        assert client.write(text).written == 6
        assert client.query("c", "h", "m", now - 6, now).values.tolist() == [0, 1, 2, 3, 4, 5]

        def clipped() -> bool:
            series = client.query("c", "h", "m", now - 6, now)
            valid = series.valid.tolist()
            assert valid == sorted(valid), "the oldest go first"
            return not all(valid) and any(valid)

        until(clipped, "the first slots to become too old", 20)
        until(lambda: not client.query("c", "h", "m", now - 6, now).valid.any(), "all to become too old", 20)
    (server.directory / "mstore.toml").write_text('retention = "1h"\ndefault_step = 1\n')
    for end in (Server.kill, power_off):
        end(server)
        server.start()
        with server.client() as client:  # never freed, so a longer retention shows it again
            assert client.query("c", "h", "m", now - 6, now).values.tolist() == [0, 1, 2, 3, 4, 5]

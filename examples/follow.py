"""Receive samples as they are stored, without polling."""

import threading
import time

import mstore

N = 5


def send() -> None:
    """Stands in for the collectors: a sample every 50 ms."""
    with mstore.connect() as client:
        for number in range(N):
            client.put("example", "n01", {"pulse": float(number)}, time.time() - 60 * (N - number))
            time.sleep(0.05)


with mstore.connect() as client, client.follow("example/*", "pulse") as follow:
    sender = threading.Thread(target=send)
    sender.start()
    seen = 0
    while seen < N:
        batch = follow.next(timeout=10)
        if batch is None:
            raise SystemExit("nothing came within 10 s")
        if batch.missed:
            print(f"{batch.missed} samples were left out: follow.resume({batch.missed_since}) has them")
        for series, times_ms, values in batch.runs():
            for time_ms, value in zip(times_ms, values, strict=True):
                print(f"{series.path} {series.metric} {value} at {time_ms // 1000}")
                seen += 1
    sender.join()

"""Read the store's memory itself: no server takes part, and chunks are looked at where they lie."""

import time

import numpy as np

import mstore

now = int(time.time()) // 60 * 60
with mstore.connect() as client:
    lines = (
        f"mem_used,cluster=example,hostname=n01 value={minute} {now - 60 * minute}\n" for minute in range(120)
    )
    print(f"{client.write(lines).written} written")

with mstore.attach() as store:
    # A question like a client's; one copy, and no round trip.
    used = store.query("example", "n01", "mem_used", now - 7200, now + 60)
    print(f"copied: {used.stats.count} samples, mean {used.stats.avg:.1f}")

    # No copy at all. The store may take a chunk away meanwhile: valid() says afterwards whether it was there.
    total, n_samples = 0.0, 0
    for chunk in store.chunks("example", "n01", "mem_used"):
        present = ~np.isnan(chunk.values)
        part, n = float(chunk.values[present].sum()), int(present.sum())
        if chunk.valid():
            total, n_samples = total + part, n_samples + n
    print(f"in place: {n_samples} samples, mean {total / n_samples:.1f}")
    del chunk  # who holds a chunk holds the memory

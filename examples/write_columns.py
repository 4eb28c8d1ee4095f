"""Write one value of many series at a time, by handle: no text is made and none is parsed."""

import time

import numpy as np

import mstore

N_HOSTS, N_THREADS = 20, 16
now = int(time.time()) // 10 * 10
spec = mstore.MetricSpec("flops_any", step_s=10, aggregation="sum", type="f32", unit="GF/s")
series = [
    ("example", f"n{host:02}", "flops_any", "hwthread", str(thread))
    for host in range(1, N_HOSTS + 1)
    for thread in range(N_THREADS)
]
with mstore.connect() as client, client.writer() as writer:
    handles = writer.open(series, spec)  # once; the metric is defined where it is not yet
    rng = np.random.default_rng(1)
    for tick in range(6):
        values = rng.uniform(1, 3, len(handles)).astype(np.float32)
        writer.write(handles, [now - 60 + 10 * tick], values[np.newaxis])
    result = writer.flush()  # waits until all of it is on the disk
    print(f"{result.written} samples of {len(handles)} series")

    # Asked without a part, a host answers with the sum of its threads.
    newest = client.latest("example/n*", "flops_any")
    for path, value in list(zip(newest.paths, newest.values, strict=True))[:3]:
        print(f"{path.host} {value:.2f} GF/s")

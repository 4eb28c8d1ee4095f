"""Write line protocol, and see what became of every line."""

import time

import mstore

now = int(time.time())
lines = "".join(
    f"cpu_load,cluster=example,hostname=n{host:02} value={host / 4} {now - 60 * minute}\n"
    for minute in range(10)
    for host in range(1, 5)
)
with mstore.connect() as client:
    result = client.write(lines)
    print(f"{result.written} written, on disk: {result.durable}")

    # A bad line does not stop the others: it is counted, with its reason.
    result = client.write(f"cpu_load,cluster=example,hostname=n01 value=oops {now}\n")
    print(f"{result.rejected} rejected: {dict(result.reasons)}")

    load = client.query("example", "n04", "cpu_load", "-15m", "now+1s")
    print(f"n04: {load.stats.count} samples, mean {load.stats.avg}")

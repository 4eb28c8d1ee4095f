"""Counters of Lustre's job_stats as rates: exact in 64 bits, and right across a reset.

A server counts bytes for each job since it saw the job first. When it drops an idle job and sees it again, counting
begins at zero: the store knows a reset by a counter that went down, and counts on from there.
"""

import re
import time

import mstore

STEP_S = 120
READS = [(1 << 60) + 1, (1 << 60) + 1 + (6 << 30), 3 << 30, 9 << 30]  # forgotten after the second reading
NAME = re.compile(r"job_id:\s+(\S+)")
BYTES = re.compile(r"(read_bytes|write_bytes):.*?sum:\s*(\d+)")


def job_stats(n_bytes: int) -> str:
    """What `lctl get_param obdfilter.*.job_stats` prints on a storage server."""
    return f"""job_stats:
- job_id:          4711
  snapshot_time:   1700000000
  read_bytes:      {{ samples: 12, unit: bytes, min: 4096, max: 4194304, sum: {n_bytes} }}
  write_bytes:     {{ samples: 0, unit: bytes, min: 0, max: 0, sum: 0 }}
"""


def lines(text: str, server: str, stamp: int) -> str:
    """Line protocol: one series a job, a level below the server; the i says that a number is a whole one."""
    job = NAME.search(text)
    assert job is not None
    below = f"type=job,type-id={job[1]}"
    return "".join(
        f"lustre_{name},cluster=example,hostname={server},{below} value={total}i {stamp}\n"
        for name, total in BYTES.findall(text)
    )


now = int(time.time()) // STEP_S * STEP_S
first = now - STEP_S * (len(READS) - 1)
with mstore.connect() as client:
    # Counters are u64, or what is beyond 2^24 would be rounded: mstore.toml says so, or who writes first.
    with client.writer() as writer:
        for name in ("read_bytes", "write_bytes"):
            spec = mstore.MetricSpec(f"lustre_{name}", STEP_S, "sum", "u64", "B")
            handles = writer.open([("example", "oss1", spec.name, "job", "4711")], spec)
            writer.write(handles, [first], [[READS[0] if name == "read_bytes" else 0]])
    for number, total in enumerate(READS):
        client.write(lines(job_stats(total), "oss1", first + STEP_S * number))

    counter = client.query(
        "example", "oss1", "lustre_read_bytes", first, now + STEP_S, type="job", type_ids="4711"
    )
    print("counter ", counter.values.tolist())
    print("increase", counter.increase().values.tolist()[1:], counter.unit)
    rate = client.query("example", "oss1", "lustre_read_bytes", first, now + STEP_S, function="rate")
    print("rate    ", [round(value / 2**20, 1) for value in rate.values.tolist()[1:]], "MiB/s")
    print("in all  ", int(counter.delta()) >> 30, "GiB read")

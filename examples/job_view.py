"""All metrics of a job: statistics by host, and what is missing with its reason."""

import time

import numpy as np

import mstore

HOSTS = ["n01", "n02", "n03"]
METRICS = {"cpu_load": "", "mem_bw": "GB/s", "cpu_power": "W"}
end = int(time.time()) // 60 * 60
start = end - 3600

with mstore.connect() as client:
    # An hour of three metrics; in real life collectors send them. n03 has sent no mem_bw.
    with client.writer() as writer:
        for number, (name, unit) in enumerate(METRICS.items()):
            senders = HOSTS[:2] if name == "mem_bw" else HOSTS
            spec = mstore.MetricSpec(name, 60, "sum", "f32", unit)
            handles = writer.open([("example", host, name) for host in senders], spec)
            times = np.arange(start, end, 60)
            course = 100 * (number + 1) + 10 * np.sin(np.arange(60) / 9)
            writer.write(handles, times, np.outer(course, 1 + np.arange(len(senders)) / 10))

    # What ClusterCockpit's meta.json says of a job; json.load() of the file does as well.
    job = {
        "jobId": 4711,
        "cluster": "example",
        "startTime": start,
        "duration": end - start,
        "resources": [{"hostname": host} for host in [*HOSTS, "n99"]],
    }
    data = client.job_data(job, list(METRICS))
    for name, scopes in data.items():
        for series in scopes["node"].series:
            if series.why:
                print(f"{name:<10} {series.host}  {series.why}")
            else:
                figures = f"min {series.min:8.2f}  mean {series.avg:8.2f}  max {series.max:8.2f}"
                print(f"{name:<10} {series.host}  {figures} {series.unit}")
    # Or in the shell, also as a picture: mstore job meta.json --plot job.png

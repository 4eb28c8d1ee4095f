"""This machine's own load, memory, disks and network, by psutil: real data without any set-up.

Host.read() returns the readings of one moment. Rates (bytes a second) come from the difference to the reading
before, so the first read has none; counters that went backwards (a reset, a replaced device) give no rate.

    level                                         metrics
    host                                          cpu_load ..., cpu_idle ..., mem_used ..., swap_used
    host / hwthreadN                              cpu_busy
    host / diskMOUNTPOINT                         disk_used, disk_free
    host / blockDEVICE                            disk_read, disk_write
    host / networkINTERFACE                       net_recv, net_xmit, net_recv_pkts, net_xmit_pkts
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from mstore.model import SeriesPath
from mstore.simulate.text import series_key

CLUSTER_DEFAULT = "local"
# Loop, RAM and device-mapper entries repeat what the real devices below them report.
_DEVICES_SKIPPED = ("loop", "ram", "zram", "dm-", "sr", "fd")


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one series, with what a store has to know of its metric."""

    path: SeriesPath
    value: float
    unit: str
    aggregation: str = "sum"

    @property
    def key(self) -> str:
        """The reading's line without value and time; the unit travels as a tag."""
        return series_key(self.path).decode() + (f",unit={self.unit}" if self.unit else "")


class Host:
    """Reads this machine; one object per collector, because rates need the reading before."""

    def __init__(self, cluster: str = CLUSTER_DEFAULT, host: str | None = None) -> None:
        self.cluster = cluster
        self.host = host or socket.gethostname().split(".")[0] or "localhost"
        self._before: dict[tuple[str, str, str], float] = {}
        self._before_s = 0.0
        psutil.cpu_percent(percpu=True)
        psutil.cpu_times_percent()

    def read(self, now_s: float) -> list[Reading]:
        """All readings of this moment. now_s: any clock in seconds that only goes forward."""
        readings = [*self._cpu(), *self._memory(), *self._disks()]
        counters = dict(self._counters())
        elapsed = now_s - self._before_s
        for (metric, level, name), total in counters.items():
            before = self._before.get((metric, level, name))
            if before is not None and total >= before and elapsed > 0:
                unit = "packets/s" if metric.endswith("_pkts") else "B/s"
                readings.append(
                    self._reading(metric, (total - before) / elapsed, unit, "node", "", level, name)
                )
        self._before, self._before_s = counters, now_s
        return [reading for reading in readings if math.isfinite(reading.value)]

    def _cpu(self) -> Iterator[Reading]:
        one, five, fifteen = psutil.getloadavg()
        for name, load in (("cpu_load", one), ("cpu_load_5m", five), ("cpu_load_15m", fifteen)):
            yield self._reading(name, load, "", aggregation="avg")
        times = psutil.cpu_times_percent()
        for name in ("user", "system", "idle", "iowait"):
            if hasattr(times, name):
                yield self._reading(f"cpu_{name}", getattr(times, name), "%", aggregation="avg")
        for thread, busy in enumerate(psutil.cpu_percent(percpu=True)):
            yield self._reading("cpu_busy", busy, "%", "hwthread", str(thread), aggregation="avg")

    def _memory(self) -> Iterator[Reading]:
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        for name, n_bytes in (
            ("mem_total", memory.total),
            ("mem_used", memory.used),
            ("mem_available", memory.available),
            ("mem_cached", getattr(memory, "cached", math.nan)),
            ("swap_used", swap.used),
        ):
            yield self._reading(name, n_bytes, "B")

    def _disks(self) -> Iterator[Reading]:
        for disk in psutil.disk_partitions(all=False):
            try:
                usage = psutil.disk_usage(disk.mountpoint)
            except OSError:
                continue  # unmounted meanwhile, or not ours to look at
            yield self._reading("disk_used", usage.used, "B", "node", "", "disk", disk.mountpoint)
            yield self._reading("disk_free", usage.free, "B", "node", "", "disk", disk.mountpoint)

    def _counters(self) -> Iterator[tuple[tuple[str, str, str], float]]:
        """((metric, level, name), total) of everything that only grows."""
        for name, disk in _each(psutil.disk_io_counters(perdisk=True)):
            if not name.startswith(_DEVICES_SKIPPED):
                yield ("disk_read", "block", name), disk.read_bytes
                yield ("disk_write", "block", name), disk.write_bytes
        for name, net in _each(psutil.net_io_counters(pernic=True)):
            yield ("net_recv", "network", name), net.bytes_recv
            yield ("net_xmit", "network", name), net.bytes_sent
            yield ("net_recv_pkts", "network", name), net.packets_recv
            yield ("net_xmit_pkts", "network", name), net.packets_sent

    def _reading(
        self,
        metric: str,
        value: float,
        unit: str,
        type: str = "node",
        type_id: str = "",
        subtype: str = "",
        subtype_id: str = "",
        *,
        aggregation: str = "sum",
    ) -> Reading:
        path = SeriesPath(self.cluster, self.host, metric, type, type_id, subtype, subtype_id)
        return Reading(path, float(value), unit, aggregation)


def lines(readings: Iterable[Reading], t_s: int) -> str:
    """Line protocol of some readings, all at one time."""
    return "".join(f"{reading.key} value={_text(reading.value)} {t_s}\n" for reading in readings)


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3f}"


def _each(found: Any) -> Iterable[tuple[str, Any]]:
    """psutil answers None where a machine has no such device."""
    return sorted(found.items()) if isinstance(found, Mapping) else ()

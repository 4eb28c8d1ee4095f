"""This machine's own metrics: real readings, rates from differences, lines that a store takes."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from mstore.collectors.host import Host, Reading, lines
from mstore.model import SeriesPath


def by_name(readings: list[Reading]) -> dict[tuple[str, str, str], Reading]:
    return {
        (one.path.metric, one.path.subtype + one.path.type_id, one.path.subtype_id): one for one in readings
    }


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """psutil's counters of one network interface and two disks, set by the test."""
    values = {"net": 1000, "disk": 500}

    def net(pernic: bool) -> dict[str, SimpleNamespace]:
        n = values["net"]
        return {
            "eth0": SimpleNamespace(
                bytes_recv=n, bytes_sent=2 * n, packets_recv=n // 10, packets_sent=n // 10
            )
        }

    def disk(perdisk: bool) -> dict[str, SimpleNamespace]:
        device = SimpleNamespace(read_bytes=values["disk"], write_bytes=values["disk"])
        return {"sda": device, "loop0": device}

    monkeypatch.setattr(psutil, "net_io_counters", net)
    monkeypatch.setattr(psutil, "disk_io_counters", disk)
    return values


def test_a_first_reading_has_everything_but_rates() -> None:
    found = by_name(Host("lab", "box").read(100.0))
    assert found["cpu_load", "", ""].path == SeriesPath("lab", "box", "cpu_load", "node")
    assert found["mem_total", "", ""].value > 1 << 20
    assert 0 <= found["cpu_busy", "0", ""].value <= 100
    assert not any(metric.startswith("net_") for metric, _, _ in found)


def test_rates_are_differences_by_time(counters: dict[str, int]) -> None:
    host = Host("lab", "box")
    host.read(100.0)
    counters["net"] += 5000
    counters["disk"] += 100
    found = by_name(host.read(110.0))
    assert found["net_recv", "network", "eth0"].value == 500.0
    assert found["net_xmit", "network", "eth0"].value == 1000.0
    assert found["net_recv_pkts", "network", "eth0"].value == 50.0
    assert found["disk_read", "block", "sda"].value == 10.0
    assert found["disk_read", "block", "sda"].unit == "B/s"
    assert ("disk_read", "block", "loop0") not in found


def test_a_counter_that_went_backwards_gives_no_rate(counters: dict[str, int]) -> None:
    host = Host("lab", "box")
    host.read(100.0)
    counters["net"] = 10
    found = by_name(host.read(110.0))
    assert ("net_recv", "network", "eth0") not in found
    assert ("disk_read", "block", "sda") in found
    counters["net"] = 20
    assert by_name(host.read(120.0))["net_recv", "network", "eth0"].value == 1.0


def test_a_machine_without_disks_and_network_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: {})
    monkeypatch.setattr(psutil, "disk_io_counters", lambda perdisk: None)
    host = Host("lab", "box")
    host.read(1.0)
    assert ("cpu_load", "", "") in by_name(host.read(2.0))


def test_a_disk_that_cannot_be_looked_at_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(psutil, "disk_usage", refuse)
    assert not [one for one in Host("lab", "box").read(1.0) if one.path.metric == "disk_used"]


def test_readings_become_lines_with_unit_and_levels() -> None:
    readings = [
        Reading(SeriesPath("lab", "box", "cpu_load", "node"), 1.23456, "", "avg"),
        Reading(SeriesPath("lab", "box", "disk_used", "node", "", "disk", "/my disk"), 12.0, "B"),
    ]
    assert lines(readings, 1_700_000_000) == (
        "cpu_load,cluster=lab,hostname=box,type=node value=1.235 1700000000\n"
        "disk_used,cluster=lab,hostname=box,type=node,stype=disk,stype-id=/my\\ disk,unit=B"
        " value=12 1700000000\n"
    )

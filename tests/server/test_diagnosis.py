"""What the doctor says about what agents found out."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from d3bed.core.checks import LinkCheck, Stopped
from d3bed.core.ids import AgentId, Tier
from d3bed.core.measurements import BoardSample, LinkShape
from d3bed.server.diagnosis import Finding, Patient, diagnose

PI, EDGE = AgentId("pi-1"), AgentId("edge-1")
WELL = LinkCheck(
    EDGE, "192.0.2.2:4750", local="192.0.2.1", interface="eth0", interface_mtu_bytes=1500,
    path_mtu_bytes=1500, connect_s=0.001, rtt_s=0.002, bytes_per_s=1e7,
)  # fmt: skip
BACK = msgspec.structs.replace(WELL, peer=PI, address="192.0.2.1:4750")


def patient(agent: AgentId = PI, **changes: Any) -> Patient:
    made = Patient(
        agent, Tier.DEVICE, True, "a board", "192.0.2.1:4750", "1.0", "alexnet", True, "same", 0.5, 0.0,
        checks=(WELL,),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def wrong(*patients: Patient, shape: LinkShape | None = None) -> list[Finding]:
    found = diagnose(patients, {(PI, EDGE): shape} if shape else {}, version="1.0")
    assert all(bool(finding.remedy) == (finding.level != "ok") for finding in found), "each names a remedy"
    return [finding for finding in found if finding.level != "ok"]


def test_a_healthy_pair_has_nothing_to_change() -> None:
    assert wrong(patient(), patient(EDGE, tier=Tier.EDGE, checks=(BACK,))) == []
    texts = [finding.text for finding in diagnose([patient()], {}, version="1.0")]
    assert "192.0.2.2:4750 from eth0: 80 Mbit/s, round trip 2 ms" in texts
    assert "alexnet is loaded; alone it would take 500 ms for a frame" in texts


@pytest.mark.parametrize(
    ("changes", "about", "words"),
    [
        ({"connected": False}, "connection", "no agent of this name"),
        ({"version": "0.9"}, "version", "runs d3bed 0.9, the server 1.0"),
        ({"clock_s": 3600.0, "clock_error_s": 0.5}, "clock", "60 min ahead of the server's"),
        ({"clock_s": -7200.0}, "clock", "2 h behind the server's"),
        ({"loaded": False}, "model", "has not loaded alexnet"),
        ({"infer_s": None}, "model", "not profiled yet"),
        ({"checks": None}, "links", "did not finish"),
        (
            {
                "board": BoardSample(
                    0.9, 1.0, 0.0, 0.5, temperature_c=82.1, frequency_hz=6e8, throttled="throttled"
                )
            },
            "board",
            "throttled (load 90%, 82 °C, 0.6 GHz)",
        ),
    ],
)
def test_an_agent_that_is_not_well(changes: dict[str, Any], about: str, words: str) -> None:
    (finding,) = wrong(patient(**changes))
    assert (finding.subject, finding.about) == ("pi-1", about) and words in finding.text


def test_a_clock_within_the_error_of_its_reading_is_no_finding() -> None:
    assert wrong(patient(clock_s=2.5, clock_error_s=1.0)) == []


def test_different_fingerprints_are_told_of_each() -> None:
    found = wrong(patient(), patient(EDGE, fingerprint="another", checks=()))
    assert [finding.about for finding in found] == ["exactness"] * 2


def test_loopback_is_no_address_for_another_board() -> None:
    there = patient(EDGE, host="another board", address="127.0.0.1:4750", checks=())
    (finding,) = wrong(patient(), there)
    assert finding.subject == "edge-1" and "--host" in finding.remedy
    assert wrong(patient(), msgspec.structs.replace(there, host="a board")) == [], "on one machine it is well"


@pytest.mark.parametrize(
    ("stopped", "remedy"),
    [
        ("name", "--host"),
        ("route", "one network"),
        ("refused", "open TCP port 4750"),
        ("silent", "ufw allow 4750/tcp"),
        ("stranger", "another --port"),
        ("stalled", "ip link set eth0 mtu 1280"),
        ("lost", "log of edge-1"),
    ],
)
def test_a_link_that_does_not_work_names_the_thing_to_change(stopped: Stopped, remedy: str) -> None:
    check = msgspec.structs.replace(WELL, stopped=stopped, problem="so it is", rtt_s=None, bytes_per_s=None)
    (finding,) = wrong(patient(checks=(check,)))
    assert (finding.subject, finding.about, finding.level) == ("pi-1→edge-1", stopped, "error")
    assert remedy in finding.remedy


def test_every_stop_has_words_of_its_own() -> None:
    checks = [msgspec.structs.replace(WELL, stopped=stop) for stop in get_args(Stopped) if stop]
    texts = [finding.text for finding in wrong(patient(checks=tuple(checks)))]
    assert len(set(texts)) == len(checks) == 7


def test_one_way_alone_points_to_a_nat_or_firewall() -> None:
    silent = msgspec.structs.replace(WELL, stopped="silent", problem="no answer in 3 s")
    (finding,) = wrong(patient(checks=(silent,)), patient(EDGE, checks=(BACK,)))
    assert "edge-1 reaches pi-1: a NAT or firewall is before edge-1" in finding.text


def test_small_packets_and_slow_emulation_are_warned_of() -> None:
    (mtu,) = wrong(patient(checks=(msgspec.structs.replace(WELL, path_mtu_bytes=1280),)))
    assert mtu.level == "warn" and "ip link set eth0 mtu 1280" in mtu.remedy
    (rate,) = wrong(patient(), shape=LinkShape(2e7))
    assert rate.level == "warn" and "80 of the 160 Mbit/s" in rate.text
    assert wrong(patient(), shape=LinkShape(1.05e7)) == []

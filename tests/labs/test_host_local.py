"""Options of host-local: gateway and addresses of pods in modes with bridge or ptp."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.labs.lab import Lab, wait_for
from tests.labs.pod_networks import manifest
from tests.labs.test_pod_networks import check_connections

LAST = {"ipv4": ("10.244.1.254",), "dual": ("10.244.1.254", "fd00:10:244:1:ffff:ffff:ffff:fffe")}
PODS = {"ipv4": ("10.244.1.100",), "dual": ("10.244.1.100", "fd00:10:244:1::64")}


def options(cni: str, ipam: str, others: str = "") -> str:
    return f"{{type: {cni}, ipam: {ipam}{others}}}"


def default_gateways(lab: Lab, pod: Any) -> list[str]:
    """Return the gateways of a pod's default routes in its kernel, IPv4 first."""
    return [
        route["gateway"]
        for family in ("-4", "-6")
        for route in json.loads(lab.inside(pod, "ip", "-j", family, "route", "show", "default"))
    ]


@pytest.mark.parametrize("family", LAST)
@pytest.mark.parametrize("neighbors", ["dynamic", "permanent"])
@pytest.mark.parametrize("cni", ["bridge", "ptp"])
def test_packets_leave_by_the_last_address(lab: Lab, cni: str, neighbors: str, family: str) -> None:
    """Pods have addresses from rangeStart on; `describe` and `diff` know the same."""
    ipam = "{gateway: last, rangeStart: 100, rangeEnd: 120}"
    lab.up(manifest(family, options(cni, ipam, f", neighbors: {neighbors}")))
    addresses = {tuple(lab.pod(name)["addresses"]) for name in "ab"}
    assert PODS[family] in addresses
    assert len(addresses) == 2
    assert tuple(default_gateways(lab, lab.pod("a"))) == LAST[family]
    check_connections(lab, family)
    (address, *_) = lab.service("web")["cluster_ips"]
    assert lab.ask(lab.pod("a"), ("TCP", address, 80))[0].server
    for gateway in LAST[family]:
        version = "-6" if ":" in gateway else "-4"
        lab.inside(lab.pod("a"), "ping", version, "-c1", "-W2", gateway)
    described = lab.run("describe", "node", "worker").out
    assert "10.244.1.100-10.244.1.120" in described
    assert LAST[family][0] in described
    assert lab.run("diff").status == 0


def test_a_pod_waits_while_the_range_is_used_up(lab: Lab) -> None:
    """The event names the range; the pod starts when it is extended."""
    lab.up(manifest("ipv4", options("bridge", "{rangeStart: 10, rangeEnd: 10}")), "--no-wait")
    text = "no IP addresses available in range set: 10.244.1.10-10.244.1.10"
    wait_for(lambda: text in lab.run("get", "events").out, "the event of a pod without address")
    assert sorted(len(lab.pod(name)["addresses"]) for name in "ab") == [0, 1]
    lab.up(manifest("ipv4", options("bridge", "{rangeStart: 10}")))
    check_connections(lab, "ipv4")


def test_options_change_in_a_running_lab(lab: Lab) -> None:
    """`up` names the pods first; they get new sandboxes, and a mistake changes nothing."""
    lab.up(manifest("dual", "bridge"))
    assert default_gateways(lab, lab.pod("a")) == ["10.244.1.1", "fd00:10:244:1::1"]
    for cni, gateways in (
        (options("bridge", "{gateway: last, rangeStart: 100}"), LAST["dual"]),
        (options("ptp", "{gateway: 9}"), ("10.244.1.9", "fd00:10:244:1::9")),
        ("bridge", ("10.244.1.1", "fd00:10:244:1::1")),
    ):
        pids = {name: lab.pod(name)["pid"] for name in "abc"}
        first, *_ = lab.up(manifest("dual", cni)).out.splitlines()
        assert "5 pods get new sandboxes:" in first, first
        assert "default/a" in first
        assert all(lab.pod(name)["pid"] != pid for name, pid in pids.items())
        assert tuple(default_gateways(lab, lab.pod("a"))) == gateways
        check_connections(lab, "dual")
        assert lab.run("diff").status == 0
    before = lab.pod("a")
    refused = lab.run(
        "up", "-f", "-", stdin=manifest("dual", options("bridge", "{rangeStart: 255}")), status=2
    )
    assert "ipam.rangeStart: expected a number from 1 to 254" in refused.err
    assert lab.pod("a") == before

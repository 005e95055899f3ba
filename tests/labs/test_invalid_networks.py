"""Networks that are invalid, or that the machine cannot make: refused before anything changes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kubenetlab.kernel.features.detection import has_program
from tests.clusters import pod
from tests.labs.lab import Lab, wait_for
from tests.labs.pod_networks import manifest
from tests.labs.test_pod_networks import check_connections, require

POOL = (
    "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {}}}\n"
    "spec: {{natOutgoing: true, {}}}\n"
)
MISTAKES = {
    "mode": ("flanel", '"flanel" is not known; did you mean flannel?'),
    "option": ("{type: calico, bakend: vxlan}", "unknown field; did you mean backend?"),
    "value": ("{type: calico, backend: vxlam}", 'found "vxlam"; did you mean vxlan?'),
    "block": ("{type: calico, blockSize: 40}", "expected a whole number from 20 to 32, found 40"),
    "reflector": ("{type: calico, routeReflectors: [wroker]}", "did you mean worker?"),
    "proxy": ("{type: kube-router, serviceProxy: maybe}", "networking.cni.serviceProxy"),
}


@contextmanager
def unchanged(lab: Lab) -> Iterator[None]:
    """Require that pods keep their sandboxes and addresses, and the kernel its objects."""

    def state() -> object:
        pods = [(pod["name"], pod["pid"], pod["addresses"]) for pod in lab.inspected["pods"]]
        return lab.inspected["cni"], pods, lab.run("get", "events", "-A", "-o", "name").out

    before = state()
    yield
    assert state() == before
    assert lab.run("diff").status == 0


def test_an_invalid_document_leaves_the_lab_untouched(lab: Lab) -> None:
    """Each message has the line of the document; the mode does not change, nor does any pod."""
    lab.up(manifest("ipv4", "bridge"))
    with unchanged(lab):
        for cni, message in MISTAKES.values():
            refused = lab.up(manifest("ipv4", cni), status=2)
            assert message in refused.err
            assert "<stdin>:3  Cluster: networking.cni" in refused.err
            assert "get new sandboxes" not in refused.out
        pools = POOL.format("x", "cidr: 172.18.0.0/24") + POOL.format("y", "cidr: 10.96.0.0/20")
        refused = lab.up(manifest("ipv4", "calico") + pools, status=2)
        assert "IPPool x: spec.cidr: expected a range apart from all others" in refused.err
        assert "which overlaps 10.96.0.0/16, the range of Services" in refused.err
        assert "get new sandboxes" not in refused.out
    check_connections(lab, "ipv4")


MISSING = {
    "ipip": ("{type: calico, backend: ipip}", "sudo modprobe ipip"),
    "ipvs": ("{type: kube-router, serviceProxy: true}", "sudo modprobe ip_vs"),
    "wireguard": ("{type: flannel, backend: wireguard}", "sudo modprobe wireguard"),
}


@pytest.mark.parametrize(("cni", "advice"), MISSING.values(), ids=MISSING)
def test_a_mode_without_its_kernel_module_is_refused(lab: Lab, cni: str, advice: str) -> None:
    """The message says how to get it; a running lab keeps its mode, and a new one is not made."""
    lab.up(manifest("ipv4", "bridge"))
    with unchanged(lab):
        refused = lab.run("up", "-f", "-", stdin=manifest("ipv4", cni), status=None)
        if refused.status == 0:
            pytest.skip("this kernel has the module")
        assert refused.status == 1
        assert advice in refused.err
        assert "a kernel with CONFIG_" in refused.err
        assert "get new sandboxes" not in refused.out
    lab.run("down")
    assert advice in lab.up(manifest("ipv4", cni), status=1).err
    assert not lab.directory.exists()


def test_a_pool_without_its_kernel_module_is_refused(lab: Lab) -> None:
    """The message has the pool's line; neither a new lab is made nor a running one changed.

    In another mode the pool has no effect; there, changing the mode is refused.
    """
    pools = POOL.format("fine", "cidr: 10.9.0.0/24") + POOL.format(
        "tunnels", "cidr: 10.8.0.0/24, ipipMode: CrossSubnet"
    )
    calico = manifest("ipv4", "calico")
    lines = (calico + pools).splitlines()
    line = next(index for index, text in enumerate(lines, 1) if "ipipMode" in text)
    place = f"<stdin>:{line}  IPPool tunnels: spec.ipipMode: needs the kernel feature ipip: "
    refused = lab.run("up", "-f", "-", stdin=calico + pools, status=None)
    if "kernel feature ipip" not in refused.err:
        pytest.skip("this kernel has the module")
    assert refused.status == 1
    assert place in refused.err
    assert "sudo modprobe ipip; a kernel with CONFIG_NET_IPIP" in refused.err
    assert not lab.directory.exists()
    lab.up(calico)
    with unchanged(lab):
        refused = lab.run("apply", "-f", "-", stdin=pools, status=1)
        assert "<stdin>:10  IPPool tunnels: spec.ipipMode: needs" in refused.err
        assert "sudo modprobe ipip" in refused.err
        assert not any(pool in lab.run("get", "ippools").out for pool in ("fine", "tunnels"))
    lab.up(manifest("ipv4", "bridge") + pools)
    with unchanged(lab):
        refused = lab.up(calico, status=1)
        assert f"<stdin>:3  Cluster {lab.name}: networking.cni: IPPool tunnels" in refused.err
        assert "get new sandboxes" not in refused.out


def test_a_mode_without_its_program_is_refused(lab: Lab) -> None:
    """The message names the package. All processes of this lab see no BIRD."""
    bird = shutil.which("bird", path="/usr/sbin:/sbin")
    if bird is None or not has_program("bird"):
        pytest.skip("bird is missing")
    hide = f'mount --bind /dev/null {bird} && exec "$@"'
    without = Lab(lab.name, ["unshare", "--mount", "sh", "-c", hide, "sh"])
    without.up(manifest("ipv4", "bridge"))
    with unchanged(lab):
        for cni in ("calico", "kube-router"):
            refused = without.up(manifest("ipv4", cni), status=1)
            needed = f"this machine lacks bird (apt-get install bird2), for cni {cni}"
            assert needed in refused.err
            assert "get new sandboxes" not in refused.out
    lab.run("down")
    assert "apt-get install bird2" in without.up(manifest("ipv4", "calico"), status=1).err
    assert not lab.directory.exists()


UNUSABLE = {
    "disabled": ("cidr: 10.9.0.0/24, disabled: true", "no configured Calico pools"),
    "selects-no-node": (
        "cidr: 10.9.0.0/24, nodeSelector: 'zone == \"x\"'",
        "no configured Calico pools for node worker",
    ),
    "manual": ("cidr: 10.9.0.0/24, assignmentMode: Manual", "no configured Calico pools"),
    "exhausted": (
        "cidr: 10.9.0.0/31, blockSize: 31",
        "Assigned 0 out of 1 requested IPv4 addresses; No IPs available in pools: only",
    ),
}


@pytest.mark.parametrize(("spec", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_pods_wait_for_an_address_with_the_reason(lab: Lab, spec: str, reason: str) -> None:
    """They are ContainerCreating, with an event; they start when a pool has addresses for them."""
    require("calico")
    done = lab.up(manifest("ipv4", "calico") + POOL.format("only", spec), status=1)
    assert reason in done.out + done.err
    described = lab.run("describe", "pod", "c").out
    shown = lab.run("get", "pods").out
    assert "ContainerCreating" in shown
    waiting = next(line.split()[0] for line in shown.splitlines() if "ContainerCreating" in line)
    described = lab.run("describe", "pod", waiting).out
    assert "FailedCreatePodSandBox" in described
    assert reason in described
    lab.apply(POOL.format("more", "cidr: 10.10.0.0/24"))
    wait_for(lambda: all(lab.pod(name)["ready"] for name in "abc"), "addresses of the new pool")
    check_connections(lab, "ipv4")


ELSEWHERE = {
    "bridge": ("bridge", "kubenetlab.dev/addresses: 10.244.1.1", "is not one of"),
    "calico": (
        "calico",
        "cni.projectcalico.org/ipAddrs: '[\"192.0.2.1\"]'",
        "requested address 192.0.2.1 is in no IPPool; there are: default-ipv4-ippool",
    ),
    "weave": (
        "weave",
        "kubenetlab.dev/addresses: 192.0.2.1",
        "requested address 192.0.2.1 is not one of 10.32.0.0/12",
    ),
}


@pytest.mark.parametrize(("cni", "annotation", "reason"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_an_address_outside_of_the_pools_is_not_assigned(
    lab: Lab, cni: str, annotation: str, reason: str
) -> None:
    """The pod waits with the reason; all others work. An invalid address is refused at once."""
    require(cni)
    lab.up(manifest("ipv4", cni))
    odd = pod("odd", ", nodeName: worker", meta=f", annotations: {{{annotation}}}")
    done = lab.run("apply", "-f", "-", stdin=odd, status=1)
    assert reason in done.out + done.err
    assert "ContainerCreating" in lab.run("get", "pods", "odd").out
    assert reason in lab.run("describe", "pod", "odd").out
    targets = [("TCP", lab.pod(name)["addresses"][0], 8080) for name in "bc"]
    assert all(answer.server for answer in lab.ask(lab.pod("a"), *targets))
    name = annotation.partition(":")[0]
    bad = pod("bad", meta=f", annotations: {{{name}: 10.244.1.300}}")
    refused = lab.run("apply", "-f", "-", stdin=bad, status=2)
    assert f"<stdin>:3  Pod default/bad: metadata.annotations[{name}]" in refused.err
    assert "10.244.1.300" in refused.err

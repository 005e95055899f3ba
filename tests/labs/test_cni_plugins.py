"""Plugins of containernetworking/plugins in the mode conflist: those of Debian, and v1.9."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.datapath.cni.conflist import DIRECTORIES
from tests.labs.lab import Lab, wait_for
from tests.labs.plugin_lists import BRIDGE, HOST_LOCAL, THREE, cluster, kept, leases, pods
from tests.labs.pod_networks import PLUGINS_ADVICE, has_plugins
from tests.upstream.builder import NotAvailableError, build
from tests.upstream.programs import CNI_PLUGINS, MORE_CNI_PLUGINS

Versions = Callable[[], tuple[str, ...]]


@pytest.fixture(params=["debian", "upstream"])
def directories(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Directories of the plugins that a test runs."""
    return upstream() if request.param == "upstream" else debian()


def debian() -> tuple[str, ...]:
    if not has_plugins():
        pytest.skip(PLUGINS_ADVICE)
    return DIRECTORIES


def upstream() -> tuple[str, ...]:
    """Return the directories of v1.9.1, which implements the specification 1.1.0."""
    try:
        return str(build(CNI_PLUGINS)), str(build(MORE_CNI_PLUGINS))
    except NotAvailableError as error:
        pytest.skip(str(error))


def require_link(kind: str) -> None:
    """Skip the test if the kernel has no links of a kind on top of another one."""
    parent = "ip link add p0 type veth peer name p1"
    script = f"{parent} && ip link add x0 {kind}"
    probe = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"this kernel cannot make links of the kind {kind.partition('type ')[2]}")


def mode(
    *plugins: dict[str, Any], directories: tuple[str, ...], version: str = "1.0.0", **options: Any
) -> dict[str, Any]:
    document = {"cniVersion": version, "name": "net", "plugins": list(plugins)}
    return {"type": "conflist", "conflist": document, "binDirs": list(directories), **options}


def up(lab: Lab, cni: dict[str, Any], manifests: str = THREE) -> None:
    """Create the lab: all pods reach each other, and CHECK of all plugins succeeds."""
    lab.up(cluster(cni) + manifests)
    assert lab.problems == []


def assert_released(lab: Lab) -> None:
    """Delete pod a: its address is released, and its result is deleted."""
    (address,) = lab.pod("a")["addresses"]
    before = kept(lab)
    lab.run("delete", "pod", "a")
    wait_for(lambda: len(kept(lab)) == len(before) - 1, "DEL")
    assert address not in leases(lab)


def limited(text: str, rate: str) -> str:
    """Return manifests of pods with limits for their bandwidth."""
    annotation = f"annotations: {{kubernetes.io/ingress-bandwidth: {rate}}}"
    return text.replace("metadata: {name", f"metadata: {{{annotation}, name")


CHAIN = (
    BRIDGE | {"ipam": HOST_LOCAL | {"routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": True}},
    {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    {"type": "firewall", "backend": "iptables"},
    {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.rp_filter": "2"}},
)


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_a_chain_of_five_in_each_version(
    lab: Lab, directories: tuple[str, ...], version: str
) -> None:
    """Bridge with host-local, portmap, bandwidth, firewall, tuning: each has its effect."""
    if version == "1.1.0" and directories == DIRECTORIES:
        pytest.skip("Debian's plugins do not implement 1.1.0")
    has_firewall = version != "0.3.1"  # the plugin firewall begins with 0.4.0
    plugins = [each for each in CHAIN if has_firewall or each["type"] != "firewall"]
    ports = [{"containerPort": 8080, "hostPort": 8081}]
    manifests = limited(pods(("a", "worker"), ports=ports), "10M")
    cni = mode(*plugins, directories=directories, version=version)
    # CHECK of Debian's bandwidth (1.1.1) panics for a pod without a limit, such as CoreDNS.
    cni["conflist"]["disableCheck"] = directories == DIRECTORIES
    up(lab, cni, manifests)
    node, pod = lab.place("nodes", "worker"), lab.pod("a")
    (answer,) = lab.ask(lab.place("external", "outside"), ("TCP", node["addresses"][0], 8081))
    assert answer.server
    (result,) = [
        json.loads(path.read_text())
        for path in lab.directory.glob("files/node_worker/var/lib/cni/results/*")
        if '"K8S_POD_NAME", "a"' in path.read_text()
    ]
    host_link = next(
        each["name"]
        for each in result["result"]["interfaces"]
        if each["name"].startswith("veth") and "sandbox" not in each
    )
    (limit,) = json.loads(lab.inside(node, "tc", "-j", "qdisc", "show", "dev", host_link))
    assert (limit["kind"], limit["options"]["rate"]) == ("tbf", 10_000_000 // 8)
    (address,) = pod["addresses"]
    if has_firewall:
        assert f"-d {address}/32" in lab.inside(node, "iptables", "-S", "CNI-FORWARD")
    assert lab.inside(pod, "cat", "/proc/sys/net/ipv4/conf/eth0/rp_filter") == "2\n"
    assert_released(lab)
    assert "tbf" not in lab.inside(node, "tc", "qdisc", "show")
    assert address not in lab.inside(node, "iptables-save")


def test_ptp(lab: Lab, directories: tuple[str, ...]) -> None:
    """Each pod has a route of its own on the node."""
    ipam = HOST_LOCAL | {"routes": [{"dst": "0.0.0.0/0"}]}
    up(lab, mode({"type": "ptp", "ipam": ipam}, directories=directories))
    (address,) = lab.pod("a")["addresses"]
    routes = json.loads(lab.inside(lab.place("nodes", "worker"), "ip", "-j", "route"))
    assert [route["dev"][:4] for route in routes if route["dst"] == address] == ["veth"]
    assert_released(lab)


def fabric_plugin(kind: str) -> dict[str, Any]:
    """Return a plugin whose links are on the fabric, and that reaches pods of the same node."""
    return {"type": kind, "master": "eth0", "mode": "bridge", "ipam": HOST_LOCAL}


def test_macvlan(lab: Lab, directories: tuple[str, ...]) -> None:
    """Pods have links on top of the node's, and reach one another without the node."""
    require_link("link p0 type macvlan")
    plugins = mode(fabric_plugin("macvlan"), directories=directories, routes="none")
    lab.run("up", "-f", "-", "--timeout", "5", stdin=cluster(plugins) + THREE, status=None)
    assert_same_node(lab, "macvlan")


def test_ipvlan(lab: Lab) -> None:
    """The same, with the MAC address of the node."""
    require_link("link p0 type ipvlan")
    plugin = fabric_plugin("ipvlan") | {"mode": "l2"}
    plugins = mode(plugin, directories=upstream(), routes="none")
    lab.run("up", "-f", "-", "--timeout", "5", stdin=cluster(plugins) + THREE, status=None)
    assert_same_node(lab, "ipvlan")


def test_vlan(lab: Lab) -> None:
    """The pod has a VLAN of the node's link."""
    require_link("link p0 type vlan id 7")
    plugin = {"type": "vlan", "master": "eth0", "vlanId": 7, "ipam": HOST_LOCAL}
    plugins = mode(plugin, directories=upstream(), routes="none")
    manifest = cluster(plugins) + pods(("a", "worker"))
    lab.run("up", "-f", "-", "--timeout", "5", stdin=manifest, status=None)
    wait_for(lambda: lab.pod("a")["addresses"], "ADD")
    (link,) = json.loads(lab.inside(lab.pod("a"), "ip", "-j", "-d", "link", "show", "eth0"))
    assert link["linkinfo"]["info_data"]["id"] == 7
    assert_released(lab)


def assert_same_node(lab: Lab, kind: str) -> None:
    """Check the links of the pods, and a connection between two of one node."""
    wait_for(lambda: all(lab.pod(name)["addresses"] for name in "abc"), "ADD")
    (link,) = json.loads(lab.inside(lab.pod("a"), "ip", "-j", "-d", "link", "show", "eth0"))
    assert link["linkinfo"]["info_kind"] == kind
    (answer,) = lab.ask(lab.pod("a"), ("TCP", lab.pod("b")["addresses"][0], 8080))
    assert answer.server
    assert lab.run("diff").status == 0
    assert_released(lab)


def test_static_addresses_and_source_routing(lab: Lab, directories: tuple[str, ...]) -> None:
    """`static` gets the requested address with its prefix length, `sbr` a table for the link."""
    ipam = {"type": "static", "routes": [{"dst": "10.244.0.0/16", "gw": "10.244.1.1"}]}
    plugins = (BRIDGE | {"ipam": ipam, "capabilities": {"ips": True}}, {"type": "sbr"})
    request = "annotations: {kubenetlab.dev/addresses: 10.244.1.77}"
    manifests = pods(("a", "worker")).replace("metadata: {name", f"metadata: {{{request}, name")
    cni = mode(*plugins, directories=directories, routes="podCIDR")
    lab.run("up", "-f", "-", "--timeout", "5", stdin=cluster(cni) + manifests, status=None)
    wait_for(lambda: lab.pod("a")["addresses"] == ["10.244.1.77"], "ADD")
    assert "from 10.244.1.77 lookup 100" in lab.inside(lab.pod("a"), "ip", "rule")
    (address,) = json.loads(lab.inside(lab.pod("a"), "ip", "-j", "-4", "addr", "show", "eth0"))
    assert address["addr_info"][0]["prefixlen"] == 24


def test_vrf(lab: Lab) -> None:
    """The pod's link is in a VRF."""
    require_link("type vrf table 9")
    plugins = mode(BRIDGE, {"type": "vrf", "vrfname": "blue"}, directories=upstream())
    manifest = cluster(plugins) + pods(("a", "worker"))
    lab.run("up", "-f", "-", "--timeout", "5", stdin=manifest, status=None)
    wait_for(lambda: lab.pod("a")["addresses"], "ADD")
    (link,) = json.loads(lab.inside(lab.pod("a"), "ip", "-j", "link", "show", "eth0"))
    assert link["master"] == "blue"


def test_a_requested_mac_address(lab: Lab, directories: tuple[str, ...]) -> None:
    """The capability `mac` has the value of the pod's annotation."""
    request = 'annotations: {kubenetlab.dev/mac: "0a:11:22:33:44:55"}'
    manifests = pods(("a", "worker")).replace("metadata: {name", f"metadata: {{{request}, name")
    up(
        lab,
        mode(CHAIN[0] | {"capabilities": {"mac": True}}, directories=directories),
        manifests,
    )
    (link,) = json.loads(lab.inside(lab.pod("a"), "ip", "-j", "link", "show", "eth0"))
    assert link["address"] == "0a:11:22:33:44:55"


def test_gc_of_upstreams_plugins(lab: Lab) -> None:
    """They accept GC, without an effect in v1.9; DEL frees the address of a lost sandbox."""
    lab.up(cluster(mode(*CHAIN, directories=upstream(), version="1.1.0")) + THREE)
    (before,) = lab.pod("a")["addresses"]
    (victim,) = lab.pids(f"{lab.name}/pod/default/a/")
    lab.inside(lab.pod("b"), "kill", "-9", str(victim))
    wait_for(lambda: before not in leases(lab), "DEL of the lost sandbox")
    wait_for(lambda: lab.problems == [], "the lab to be whole")
    everywhere = [pod for pod in lab.inspected["pods"] if not pod["host_network"]]
    assert leases(lab) == sorted(address for pod in everywhere for address in pod["addresses"])
    assert "garbage" not in (lab.directory / "log").read_text()


def test_status_of_upstreams_plugins(lab: Lab, tmp_path: Path) -> None:
    """Bridge asks its IPAM plugin: without that, the nodes are NotReady."""
    (tmp_path / "bridge").symlink_to(Path(upstream()[0], "bridge"))
    program = tmp_path / "host-local"
    program.symlink_to(Path(upstream()[0], "host-local"))
    lab.up(cluster(mode(CHAIN[0], directories=(str(tmp_path),), version="1.1.0")) + THREE)

    def message() -> str:
        (node,) = [
            each for each in lab.get("nodes")["items"] if each["metadata"]["name"] == "worker"
        ]
        return str(node["status"]["conditions"][0]["message"])

    assert message() == "kubelet is posting ready status"
    program.unlink()
    wait_for(lambda: "NetworkPluginNotReady" in message(), "NotReady", within_s=20)
    assert 'plugin type="bridge" failed (status): ' in message()
    assert 'failed to find plugin "host-local"' in message()
    program.symlink_to(Path(upstream()[0], "host-local"))
    wait_for(lambda: message() == "kubelet is posting ready status", "Ready", within_s=20)

"""Real CNI plugins, called as container runtimes call them.

They are those of containernetworking/plugins (Debian: containernetworking-plugins).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.cni import conflist
from kubenetlab.cni.capabilities import PodSandbox, PortMapping, capability_arguments
from kubenetlab.cni.failures import CniError
from kubenetlab.cni.invocations import Arguments
from kubenetlab.cni.results import Result
from kubenetlab.cni.runtime import Runtime
from kubenetlab.datapath.cni.conflist import DIRECTORIES
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.processes.cni_plugins import PluginExecutor, ResultFiles
from kubenetlab.lab.nodeagent.network_plugins import PATH
from tests.labs.pod_networks import PLUGINS_ADVICE

pytestmark = pytest.mark.first_kernel  # plugins behave alike on both

HOST_LOCAL = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
}
BRIDGE = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": HOST_LOCAL}


def call(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


class Node:
    """The test's own network namespace as a node, with plugins and pods."""

    def __init__(self, *plugins: dict[str, Any], version: str = "1.0.0") -> None:
        self.executor = PluginExecutor(DIRECTORIES, {"PATH": PATH})
        loaded, findings = conflist.load(
            {"cniVersion": version, "name": "net", "plugins": list(plugins)}
        )
        assert loaded is not None, findings
        self.network = loaded
        for program in self.network.program_names:
            if not self.executor.find(program):
                pytest.skip(PLUGINS_ADVICE)
        for folder in ("/var/lib/cni", "/var/run"):
            if os.path.isdir(folder) and not os.path.islink(folder):
                syscalls.mount("tmpfs", folder, "tmpfs")
        if not os.path.isdir("/var/lib/cni"):
            syscalls.mount("tmpfs", "/var/lib", "tmpfs")
        self.runtime = Runtime(self.executor, ResultFiles("/var/lib/cni/results"))
        call("ip", "link", "set", "lo", "up")
        for setting in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            Path(f"/proc/sys/{setting}").write_text("1")
        self.pods: dict[str, Arguments] = {}

    def add(self, name: str, **facts: Any) -> Result:
        """Make a namespace for a pod, and attach it."""
        call("ip", "netns", "add", name)
        call("ip", "-n", name, "link", "set", "lo", "up")
        pod = PodSandbox(f"id-{name}", f"/run/netns/{name}", "default", name, **facts)
        self.pods[name] = Arguments(
            pod.container_id, pod.netns, pod.ifname, pod.arguments, capability_arguments(pod)
        )
        return self.runtime.add(self.network, self.pods[name])

    def delete(self, name: str) -> None:
        self.runtime.delete(self.network, self.pods[name])

    def check(self, name: str) -> None:
        self.runtime.check(self.network, self.pods[name])


def ip_json(*words: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(call("ip", "-json", *words) or "[]")
    return listed


def links(*options: str) -> list[str]:
    return sorted(link["ifname"] for link in ip_json(*options, "link", "show"))


def ping(source: Sequence[str], address: str) -> None:
    call(*source, "ping", "-c", "1", "-W", "5", address)


def inside(name: str) -> Sequence[str]:
    return ("ip", "netns", "exec", name)


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_bridge_and_host_local(version: str) -> None:
    """Two pods reach one another and the node in both families; DEL leaves the bridge alone."""
    node = Node(BRIDGE, version=version)
    assert list(node.runtime.validate(node.network)) == []
    first, second = node.add("one"), node.add("two")
    assert first.addresses_of("/run/netns/one", "eth0") == ("10.9.0.2", "fd00:9::2")
    assert second.addresses_of("/run/netns/two", "eth0") == ("10.9.0.3", "fd00:9::3")
    ping(inside("one"), "10.9.0.3")
    ping(inside("one"), "10.9.0.1")
    assert Path("/var/lib/cni/networks/net/10.9.0.2").read_text().startswith("id-one")
    assert sorted(os.listdir("/var/lib/cni/results")) == ["net-id-one-eth0", "net-id-two-eth0"]
    if version != "0.3.1":
        node.check("one")
        call("ip", "-n", "one", "address", "flush", "dev", "eth0")
        with pytest.raises(CniError, match=r'plugin type="bridge" failed \(check\)'):
            node.check("one")
    node.delete("one")
    node.delete("one")
    assert links("-n", "one") == ["lo"]
    assert not Path("/var/lib/cni/networks/net/10.9.0.2").exists()
    node.delete("two")
    assert os.listdir("/var/lib/cni/results") == []
    assert links() == ["cni0", "lo"]


def test_the_error_of_a_real_plugin_is_shown() -> None:
    """The plugin's own message; nothing of the pod is left."""
    tiny = HOST_LOCAL | {"ranges": [[{"subnet": "10.9.0.0/30"}]]}
    node = Node(BRIDGE | {"ipam": tiny})
    node.add("one")
    with pytest.raises(CniError) as raised:
        node.add("two")
    assert str(raised.value) == (
        'plugin type="bridge" failed (add): failed to allocate for range 0:'
        " no IP addresses available in range set: 10.9.0.1-10.9.0.2"
    )
    assert links("-n", "two") == ["lo"]


def test_a_version_that_the_plugins_do_not_support() -> None:
    """Known before any pod by VERSION, and from the plugin's answer to ADD."""
    node = Node(BRIDGE, version="1.1.0")
    problems = list(node.runtime.validate(node.network))
    if not problems:
        pytest.skip("these plugins support 1.1.0")
    assert problems[0].startswith('plugin bridge does not support config version "1.1.0"')
    with pytest.raises(CniError) as raised:
        node.add("one")
    assert raised.value.code == 1
    assert raised.value.explanation == "the plugin does not support the list's cniVersion"


def test_ptp() -> None:
    """A link and a host route for each pod."""
    node = Node({"type": "ptp", "ipam": HOST_LOCAL})
    node.add("one")
    node.add("two")
    ping(inside("one"), "10.9.0.3")
    assert len([name for name in links() if name.startswith("veth")]) == 2
    node.check("one")
    node.delete("one")
    node.delete("two")
    assert links() == ["lo"]


def test_macvlan() -> None:
    """Pods on the node's own link, with their own MAC addresses."""
    call("ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "uplink1")
    call("ip", "link", "set", "uplink0", "up")
    call("ip", "link", "set", "uplink1", "up")
    made = subprocess.run(
        ["ip", "link", "add", "probe0", "link", "uplink0", "type", "macvlan"],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"this kernel has no macvlan: {made.stderr.decode().strip()}")
    call("ip", "link", "delete", "probe0")
    node = Node({"type": "macvlan", "master": "uplink0", "mode": "bridge", "ipam": HOST_LOCAL})
    node.add("one")
    node.add("two")
    ping(inside("one"), "10.9.0.3")
    node.check("one")
    node.delete("one")
    assert links("-n", "one") == ["lo"]


def test_tuning() -> None:
    """Sysctls and a MAC address in the pod, chained behind another plugin."""
    sysctl = {"net.ipv4.conf.eth0.rp_filter": "2"}
    node = Node(
        BRIDGE, {"type": "tuning", "sysctl": sysctl, "capabilities": {"mac": True}, "mtu": 1300}
    )
    node.add("one", mac="0a:00:00:00:00:77")
    assert call(*inside("one"), "cat", "/proc/sys/net/ipv4/conf/eth0/rp_filter") == "2\n"
    (link,) = ip_json("-n", "one", "link", "show", "eth0")
    assert (link["address"], link["mtu"]) == ("0a:00:00:00:00:77", 1300)
    node.check("one")
    node.delete("one")


def needs_iptables() -> None:
    """Skip without iptables' nat table."""
    try:
        done = subprocess.run(
            ["iptables", "-t", "nat", "-S"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("iptables is missing; on Debian and Ubuntu: apt-get install iptables")
    if done.returncode:
        pytest.skip(f"iptables has no table nat here: {done.stderr.strip()}")


SERVER = """
import socket
listener = socket.create_server(("", 80))
print("listening", flush=True)
connection, peer = listener.accept()
connection.sendall(peer[0].encode())
"""


def test_portmap() -> None:
    """A connection to a port of the node reaches the pod, until DEL."""
    needs_iptables()
    node = Node(BRIDGE, {"type": "portmap", "capabilities": {"portMappings": True}})
    node.add("one", port_mappings=(PortMapping(8080, 80),))
    node.add("two")
    with subprocess.Popen(
        [*inside("one"), sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        client = "import socket; print(socket.create_connection(('10.9.0.1', 8080), 5).recv(99))"
        # The pod sees its peer as the node, because the two share a subnet.
        assert call(*inside("two"), sys.executable, "-c", client) == "b'10.9.0.1'\n"
    # No CHECK here: that of portmap 1.1.1 looks for IPv4 rules in ip6tables.
    node.delete("one")
    assert "10.9.0.2:80" not in call("iptables", "-t", "nat", "-S")


def test_firewall() -> None:
    """The pod's addresses are accepted in the chain FORWARD."""
    needs_iptables()
    node = Node(BRIDGE, {"type": "firewall", "backend": "iptables"})
    node.add("one")
    assert "10.9.0.2/32" in call("iptables", "-S")
    node.check("one")
    node.delete("one")
    assert "10.9.0.2/32" not in call("iptables", "-S")


def test_bandwidth() -> None:
    """The annotations of a pod become a token bucket on its link."""
    bucket = ("tbf", "rate", "1mbit", "burst", "9k", "latency", "1ms")
    words = ("tc", "qdisc", "add", "dev", "lo", "root", *bucket)
    probe = subprocess.run(words, capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"this kernel has no tbf: {probe.stderr.decode().strip()}")
    call("tc", "qdisc", "delete", "dev", "lo", "root")
    node = Node(BRIDGE, {"type": "bandwidth", "capabilities": {"bandwidth": True}})
    node.add("one", annotations={"kubernetes.io/ingress-bandwidth": "10M"})
    shaped = [qdisc for qdisc in json.loads(call("tc", "-json", "qdisc")) if qdisc["kind"] == "tbf"]
    assert [qdisc["options"]["rate"] for qdisc in shaped] == [1_250_000]  # in bytes
    node.check("one")
    node.delete("one")

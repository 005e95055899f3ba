"""The same pods by other tools, each as its documentation shows. Run as: python makers.py TOOL PODS, in namespaces made for it alone.

A pod is a namespace that has a name, a veth pair with one end on a bridge, an IPv4 address, a default route, and lo up. Prints the seconds
they took, after the last pod has answered the first one's ping. Imports nothing of ours: Mininet needs the system's interpreter.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

GATEWAY = "10.244.0.1"
CNI_FOLDER = "/usr/lib/cni"
BRIDGE = f"link add br0 type bridge\naddr add {GATEWAY}/16 dev br0\nlink set br0 up\n"
CNI_LOOPBACK = {"cniVersion": "0.4.0", "name": "lo", "type": "loopback"}
CNI_BRIDGE = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "type": "bridge",
    "bridge": "br0",
    "isGateway": True,
}
CNI_IPAM = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.244.0.0/16"}]],
    "routes": [{"dst": "0.0.0.0/0"}],
}

Timed = tuple[float, Callable[[str], int]]
"""Seconds, and who pings an address from the last pod: its exit status."""


def address(pod: int) -> str:
    """host-local gives them out in the same order."""
    return f"10.244.{(pod + 2) >> 8}.{(pod + 2) & 255}"


def sh(*command: str, given: str = "") -> None:
    subprocess.run(command, input=given, text=True, stdout=subprocess.DEVNULL, check=True)


def by_name(pod: int) -> Callable[[str], int]:
    """Pings from the namespace of a pod."""
    return lambda to: subprocess.call(
        ["ip", "netns", "exec", f"p{pod}", *ping(to)], stdout=subprocess.DEVNULL
    )


def ping(to: str) -> list[str]:
    return ["ping", "-q", "-c1", "-w5", to]


def ip_batch(pods: int) -> Timed:
    """One batch for what is outside; another for each pod, as a batch cannot change namespace."""
    outside = [
        f"netns add p{pod}\nlink add v{pod} type veth peer name eth0 netns p{pod}\nlink set v{pod} master br0 up"
        for pod in range(pods)
    ]
    begun = time.perf_counter()
    sh("ip", "-batch", "-", given=BRIDGE + "\n".join(outside) + "\n")
    for pod in range(pods):
        inside = f"link set lo up\naddr add {address(pod)}/16 dev eth0\nlink set eth0 up\nroute add default via {GATEWAY}\n"
        sh("ip", "-n", f"p{pod}", "-batch", "-", given=inside)
    return time.perf_counter() - begun, by_name(pods - 1)


def pyroute2(pods: int) -> Timed:
    """IPRoute for what is outside, NetNS inside, links looked up by name."""
    from pyroute2 import IPRoute, NetNS, netns

    begun = time.perf_counter()
    with IPRoute() as outside:
        outside.link("add", ifname="br0", kind="bridge")
        bridge = outside.link_lookup(ifname="br0")[0]
        outside.addr("add", index=bridge, address=GATEWAY, prefixlen=16)
        outside.link("set", index=bridge, state="up")
        for pod in range(pods):
            netns.create(f"p{pod}")
            outside.link(
                "add",
                ifname=f"v{pod}",
                kind="veth",
                peer={"ifname": "eth0", "net_ns_fd": f"p{pod}"},
            )
            outside.link(
                "set", index=outside.link_lookup(ifname=f"v{pod}")[0], master=bridge, state="up"
            )
            with NetNS(f"p{pod}") as inside:
                inside.link("set", index=inside.link_lookup(ifname="lo")[0], state="up")
                eth0 = inside.link_lookup(ifname="eth0")[0]
                inside.addr("add", index=eth0, address=address(pod), prefixlen=16)
                inside.link("set", index=eth0, state="up")
                inside.route("add", dst="default", gateway=GATEWAY)
    return time.perf_counter() - begun, by_name(pods - 1)


def mininet(pods: int) -> Timed:
    """Hosts on one Linux bridge, without a controller."""
    from mininet.net import Mininet
    from mininet.nodelib import LinuxBridge

    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    Mininet.inited = True  # else it writes the machine's own settings
    begun = time.perf_counter()
    net = Mininet(switch=LinuxBridge, controller=None, ipBase="10.244.0.0/16")
    switch = net.addSwitch("s1")
    for pod in range(pods):
        net.addLink(
            net.addHost(f"p{pod}", ip=f"{address(pod)}/16", defaultRoute=f"via {GATEWAY}"), switch
        )
    net.start()
    sh("ip", "addr", "add", f"{GATEWAY}/16", "dev", "s1")
    took = time.perf_counter() - begun
    return (
        took,
        lambda to: 0 if " 0% packet loss" in net[f"p{pods - 1}"].cmd(" ".join(ping(to))) else 1,
    )


def cni(pods: int) -> Timed:
    """What a container runtime calls for each pod: loopback, then bridge, which calls host-local."""
    with tempfile.TemporaryDirectory(prefix="kubenetlab-bench-") as leases:
        bridge, loopback = (
            json.dumps({**CNI_BRIDGE, "ipam": {**CNI_IPAM, "dataDir": leases}}),
            json.dumps(CNI_LOOPBACK),
        )
        begun = time.perf_counter()
        for pod in range(pods):
            sh("ip", "netns", "add", f"p{pod}")
            for ifname, plugin, configuration in (
                ("lo", "loopback", loopback),
                ("eth0", "bridge", bridge),
            ):
                words = {
                    "COMMAND": "ADD",
                    "CONTAINERID": f"p{pod}",
                    "NETNS": f"/run/netns/p{pod}",
                    "IFNAME": ifname,
                    "PATH": CNI_FOLDER,
                }
                environment = [f"CNI_{name}={value}" for name, value in words.items()]
                sh("env", *environment, f"{CNI_FOLDER}/{plugin}", given=configuration)
        return time.perf_counter() - begun, by_name(pods - 1)


TOOLS: dict[str, Callable[[int], Timed]] = {
    "ip -batch": ip_batch,
    "pyroute2": pyroute2,
    "Mininet": mininet,
    "CNI bridge + host-local": cni,
}


def main(tool: str, pods: int) -> None:
    printed = os.dup(1)
    os.dup2(2, 1)  # what tools say goes elsewhere
    sh("ip", "link", "set", "lo", "up")
    took, pings = TOOLS[tool](pods)
    if pings(address(0)) != 0:
        sys.exit(f"{tool}: the last of {pods} pods does not reach the first")
    os.write(printed, f"{took:.6f}\n".encode())
    os._exit(0)  # and with it all namespaces; no tool's way of cleaning up counts


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

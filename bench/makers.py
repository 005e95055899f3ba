"""Create pods by other tools, each as its documentation shows.

Usage: python makers.py TOOL PODS, in namespaces created for it alone.

A pod is a named namespace that has a veth pair with one end on a bridge, an IPv4 address, a default
route, and lo up. The program prints the seconds that this took, after the last pod has pinged the
first one. It imports nothing of kubenetlab: Mininet needs the system's interpreter.
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
"""Duration in seconds, and a function that pings an address from the last pod (exit status)."""


def address(pod: int) -> str:
    """Return the address of a pod; host-local allocates them in the same order."""
    return f"10.244.{(pod + 2) >> 8}.{(pod + 2) & 255}"


def sh(*command: str, stdin: str = "") -> None:
    subprocess.run(command, input=stdin, text=True, stdout=subprocess.DEVNULL, check=True)


def by_name(pod: int) -> Callable[[str], int]:
    """Return a function that pings from the namespace of a pod."""
    return lambda target: subprocess.call(
        ["ip", "netns", "exec", f"p{pod}", *ping(target)], stdout=subprocess.DEVNULL
    )


def ping(target: str) -> list[str]:
    return ["ping", "-q", "-c1", "-w5", target]


def ip_batch(pods: int) -> Timed:
    """Use one batch for the host and one for each pod: a batch cannot change namespaces."""
    commands = [
        f"netns add p{pod}\nlink add v{pod} type veth peer name eth0 netns p{pod}\n"
        f"link set v{pod} master br0 up"
        for pod in range(pods)
    ]
    started = time.perf_counter()
    sh("ip", "-batch", "-", stdin=BRIDGE + "\n".join(commands) + "\n")
    for pod in range(pods):
        pod_commands = (
            f"link set lo up\naddr add {address(pod)}/16 dev eth0\n"
            f"link set eth0 up\nroute add default via {GATEWAY}\n"
        )
        sh("ip", "-n", f"p{pod}", "-batch", "-", stdin=pod_commands)
    return time.perf_counter() - started, by_name(pods - 1)


def pyroute2(pods: int) -> Timed:
    """Use IPRoute for the host and NetNS for pods, with links looked up by name."""
    from pyroute2 import IPRoute, NetNS, netns

    started = time.perf_counter()
    with IPRoute() as host:
        host.link("add", ifname="br0", kind="bridge")
        bridge = host.link_lookup(ifname="br0")[0]
        host.addr("add", index=bridge, address=GATEWAY, prefixlen=16)
        host.link("set", index=bridge, state="up")
        for pod in range(pods):
            netns.create(f"p{pod}")
            host.link(
                "add",
                ifname=f"v{pod}",
                kind="veth",
                peer={"ifname": "eth0", "net_ns_fd": f"p{pod}"},
            )
            host.link("set", index=host.link_lookup(ifname=f"v{pod}")[0], master=bridge, state="up")
            with NetNS(f"p{pod}") as pod_netns:
                pod_netns.link("set", index=pod_netns.link_lookup(ifname="lo")[0], state="up")
                eth0 = pod_netns.link_lookup(ifname="eth0")[0]
                pod_netns.addr("add", index=eth0, address=address(pod), prefixlen=16)
                pod_netns.link("set", index=eth0, state="up")
                pod_netns.route("add", dst="default", gateway=GATEWAY)
    return time.perf_counter() - started, by_name(pods - 1)


def mininet(pods: int) -> Timed:
    """Use hosts on one Linux bridge, without a controller."""
    from mininet.net import Mininet
    from mininet.nodelib import LinuxBridge

    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    Mininet.inited = True  # otherwise Mininet changes settings of the machine
    started = time.perf_counter()
    net = Mininet(switch=LinuxBridge, controller=None, ipBase="10.244.0.0/16")
    switch = net.addSwitch("s1")
    for pod in range(pods):
        net.addLink(
            net.addHost(f"p{pod}", ip=f"{address(pod)}/16", defaultRoute=f"via {GATEWAY}"), switch
        )
    net.start()
    sh("ip", "addr", "add", f"{GATEWAY}/16", "dev", "s1")
    duration = time.perf_counter() - started
    return (
        duration,
        lambda target: (
            0 if " 0% packet loss" in net[f"p{pods - 1}"].cmd(" ".join(ping(target))) else 1
        ),
    )


def cni(pods: int) -> Timed:
    """Call the CNI plugins as a container runtime does: loopback, then bridge with host-local."""
    with tempfile.TemporaryDirectory(prefix="kubenetlab-bench-") as leases:
        bridge, loopback = (
            json.dumps({**CNI_BRIDGE, "ipam": {**CNI_IPAM, "dataDir": leases}}),
            json.dumps(CNI_LOOPBACK),
        )
        started = time.perf_counter()
        for pod in range(pods):
            sh("ip", "netns", "add", f"p{pod}")
            for ifname, plugin, configuration in (
                ("lo", "loopback", loopback),
                ("eth0", "bridge", bridge),
            ):
                arguments = {
                    "COMMAND": "ADD",
                    "CONTAINERID": f"p{pod}",
                    "NETNS": f"/run/netns/p{pod}",
                    "IFNAME": ifname,
                    "PATH": CNI_FOLDER,
                }
                environment = [f"CNI_{name}={value}" for name, value in arguments.items()]
                sh("env", *environment, f"{CNI_FOLDER}/{plugin}", stdin=configuration)
        return time.perf_counter() - started, by_name(pods - 1)


TOOLS: dict[str, Callable[[int], Timed]] = {
    "ip -batch": ip_batch,
    "pyroute2": pyroute2,
    "Mininet": mininet,
    "CNI bridge + host-local": cni,
}


def main(tool: str, pods: int) -> None:
    stdout = os.dup(1)
    os.dup2(2, 1)  # output of the tools goes to stderr
    sh("ip", "link", "set", "lo", "up")
    duration, ping_from_last = TOOLS[tool](pods)
    if ping_from_last(address(0)) != 0:
        sys.exit(f"{tool}: the last of {pods} pods does not reach the first")
    os.write(stdout, f"{duration:.6f}\n".encode())
    os._exit(0)  # the namespaces end with the process; cleaning up is not measured


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""Shell scripts that make pod networks by hand: the baselines of the benchmark `cni`.

Each script makes two nodes on a switch, the pods `client` and `near` on the first node, and the pod
`far` on the second one. It uses ip, bridge, sysctl and nft, as the documentation of the CNI plugins
shows the state that they leave in the kernel. It imports nothing of kubenetlab.
"""

from __future__ import annotations

from collections.abc import Callable

NODES = (1, 2)
PODS = (("client", 1, 2), ("near", 1, 3), ("far", 2, 2))
"""Name of each pod, its node, and the last byte of its address."""

NODE = """\
ip netns add n{node}
ip -n switch link add node{node} type veth peer name eth0 netns n{node}
ip -n switch link set node{node} master br0 up
ip -n n{node} link set lo up
ip -n n{node} addr add 172.18.0.{node}/16 dev eth0
ip -n n{node} link set eth0 up
ip -n n{node} route add default via 172.18.255.1
ip netns exec n{node} sysctl -qw net.ipv4.ip_forward=1 \\
  net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
ip netns exec n{node} sysctl -qw net.bridge.bridge-nf-call-iptables=1 || true
ip netns exec n{node} nft -f - <<'end'
table ip egress {{
  chain postrouting {{
    type nat hook postrouting priority srcnat
    ip daddr {{ 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 }} return
    masquerade
  }}
}}
end
"""
BRIDGE = """\
ip -n n{node} link add cni0 mtu {mtu} type bridge
ip -n n{node} addr add 10.244.{node}.1/24 dev cni0
ip -n n{node} link set cni0 up
"""
POD_ON_BRIDGE = """\
ip netns add {pod}
ip -n n{node} link add veth{pod} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod}
ip -n n{node} link set veth{pod} master cni0 up
ip -n n{node} link set veth{pod} type bridge_slave hairpin on
ip -n {pod} link set lo up
ip -n {pod} addr add {address}/24 dev eth0
ip -n {pod} link set eth0 up
ip -n {pod} route add default via 10.244.{node}.1
"""
ROUTED_POD = """\
ip netns add {pod}
ip -n n{node} link add cali{pod} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod}
ip netns exec n{node} sysctl -qw net.ipv4.conf.cali{pod}.proxy_arp=1 \\
  net.ipv4.neigh.cali{pod}.proxy_delay=0
ip -n n{node} link set cali{pod} up
ip -n n{node} route add {address} dev cali{pod}
ip -n {pod} link set lo up
ip -n {pod} addr add {address}/32 dev eth0
ip -n {pod} link set eth0 up
ip -n {pod} route add 169.254.1.1 dev eth0
ip -n {pod} route add default via 169.254.1.1
"""
DIRECT_ROUTE = "ip -n n{node} route add 10.244.{peer}.0/24 via 172.18.0.{peer}\n"
VXLAN = """\
ip -n n{node} link add vxlan type vxlan id 1 dstport 8472 local 172.18.0.{node} dev eth0 nolearning
ip -n n{node} link set vxlan mtu 1450 address 02:00:00:00:0{node}:00 up
ip -n n{node} addr add 10.244.{node}.0/32 dev vxlan
ip -n n{node} neigh add 10.244.{peer}.0 lladdr 02:00:00:00:0{peer}:00 dev vxlan
bridge -n n{node} fdb append 02:00:00:00:0{peer}:00 dev vxlan dst 172.18.0.{peer}
ip -n n{node} route add 10.244.{peer}.0/24 via 10.244.{peer}.0 dev vxlan onlink
"""
SUBNET_OVER_VXLAN = """\
ip -n n{node} link add weave mtu {mtu} type bridge
ip -n n{node} addr add 10.244.{node}.1/16 dev weave
ip -n n{node} link set weave up
ip -n n{node} link add vxlan type vxlan id 1 dstport 6784 local 172.18.0.{node} dev eth0
ip -n n{node} link set vxlan mtu {mtu} master weave up
bridge -n n{node} fdb append 00:00:00:00:00:00 dev vxlan dst 172.18.0.{peer}
"""
POD_IN_SUBNET = POD_ON_BRIDGE.replace("cni0", "weave").replace("{address}/24", "{address}/16")


def _script(node_lines: str, pod_lines: str, mtu: int) -> str:
    lines = [
        "set -e\nip netns add switch\nip -n switch link add br0 type bridge\n",
        "ip -n switch link set br0 up\n",
    ]
    for node in NODES:
        peer = 3 - node
        lines.append((NODE + node_lines).format(node=node, peer=peer, mtu=mtu))
    for pod, node, _ in PODS:
        address = address_by_hand(pod)
        lines.append(pod_lines.format(pod=pod, node=node, address=address, mtu=mtu))
    return "".join(lines)


def address_by_hand(pod: str) -> str:
    """Return the address that the scripts give to a pod."""
    return next(f"10.244.{node}.{last}" for name, node, last in PODS if name == pod)


def bridges_and_routes() -> str:
    """Return the script of a bridge for each node, and routes between the nodes."""
    return _script(BRIDGE + DIRECT_ROUTE, POD_ON_BRIDGE, 1500)


def bridges_and_vxlan() -> str:
    """Return the script of a bridge for each node, and VXLAN tunnels between the nodes."""
    return _script(BRIDGE + VXLAN, POD_ON_BRIDGE, 1450)


def routed_pods() -> str:
    """Return the script of a route for each pod, and routes between the nodes."""
    return _script(DIRECT_ROUTE, ROUTED_POD, 1500)


def routed_pods_and_vxlan() -> str:
    """Return the script of a route for each pod, and VXLAN tunnels between the nodes."""
    return _script(VXLAN, ROUTED_POD, 1450)


def one_subnet() -> str:
    """Return the script of one subnet for all pods: a bridge for each node, joined by VXLAN."""
    return _script(SUBNET_OVER_VXLAN, POD_IN_SUBNET, 1450)


BY_HAND: dict[str, Callable[[], str]] = {
    "bridge": bridges_and_routes,
    "flannel,backend=host-gw": bridges_and_routes,
    "flannel,backend=vxlan": bridges_and_vxlan,
    "calico,backend=bgp": routed_pods,
    "calico,backend=vxlan": routed_pods_and_vxlan,
    "weave": one_subnet,
    "kube-router": bridges_and_routes,
    "ptp": routed_pods,
    "cilium,routingMode=tunnel": bridges_and_vxlan,
    "cilium,routingMode=native": bridges_and_routes,
}
"""CNI mode with its options, as `--cni` takes it → script of the same path.

cilium is compared with bridges, because nobody loads its programs by hand.
"""

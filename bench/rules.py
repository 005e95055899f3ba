"""rules: how long Services take to be loaded on a node, beside the same made by hand; and to be connected to, the first and the last."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

from bench import manifests
from bench.datapath import CONNECTS, ECHO, SINK, in_the_lab, servers
from bench.measure import (
    KUBENETLAB,
    LAB,
    PYTHON,
    compiled,
    folder,
    heading,
    lab,
    output,
    quiet,
    ratio,
    table,
)
from bench.plot import svg
from kubenetlab.api.core import Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.load import decode_object
from kubenetlab.cli.input.options import mode as parsed
from kubenetlab.datapath import modes
from kubenetlab.datapath.modes import PodNetwork
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.proxy_views import ProxyView
from kubenetlab.datapath.service_rules import service_rules
from kubenetlab.datapath.view import Family, NodeView, ServiceView
from kubenetlab.hoststate.rules.rulesets import NodeRules, RuleObject, RuleSet, steps
from kubenetlab.kernel.rules.backends import open_here
from kubenetlab.versioned import VersionedMap

SIZES = (100, 1000)
LARGE = 10_000
ROUNDS = 3
MODES = ("nftables,layout=fast", "nftables,layout=faithful", "iptables", "ebpf")
PODS, SERVICES = "10.240.0.0/12", "10.96.0.0/12"


def vip(number: int) -> str:
    return str(IPv4Address("10.100.0.0") + number)


def endpoints(number: int) -> list[str]:
    return [str(IPv4Address("10.240.1.0") + 2 * number + one) for one in (0, 1)]


class Baseline(NamedTuple):
    """A program, and what it is given for so many Services."""

    command: tuple[str, ...]
    text: Callable[[int], str]


def nft_map(services: int) -> str:
    """One rule and one map."""
    entries = (
        f"{vip(n)} . tcp . 80 . {k} : {ep} . 8080"
        for n in range(services)
        for k, ep in enumerate(endpoints(n))
    )
    key = "ip daddr . meta l4proto . th dport . numgen random mod"
    return (
        f"table ip t {{\nmap eps {{ typeof {key} 65536 : ip daddr . th dport; elements = {{ {', '.join(entries)} }}\n}}\n"
        f"chain pre {{ type nat hook prerouting priority -100; dnat to {key} 2 map @eps\n}}\n}}\n"
    )


def nft_chains(services: int) -> str:
    """kube-proxy's: a map, a chain for each Service, one for each endpoint."""
    chains = "".join(
        "".join(
            f"chain e{n}x{k} {{ ip saddr {ep} jump masq\nmeta l4proto tcp dnat to {ep}:8080\n}}\n"
            for k, ep in enumerate(endpoints(n))
        )
        + f"chain s{n} {{ ip daddr {vip(n)} ip saddr != {PODS} jump masq\nnumgen random mod 2 vmap {{ 0 : goto e{n}x0, 1 : goto e{n}x1 }}\n}}\n"
        for n in range(services)
    )
    entries = ", ".join(f"{vip(n)} . tcp . 80 : goto s{n}" for n in range(services))
    return (
        f"table ip t {{\nchain masq {{ mark set mark or 0x4000\n}}\n{chains}"
        f"map ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {entries} }}\n}}\n"
        "chain pre { type nat hook prerouting priority -100; ip daddr . meta l4proto . th dport vmap @ips\n}\n}\n"
    )


IPTABLES_BESIDE = """\
*mangle
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
COMMIT
"""
"""What kube-proxy and kubelet have in the other tables, and the hooks of all."""


def iptables_chains(services: int) -> str:
    """kube-proxy's: a rule and a chain for each Service, a chain for each endpoint, and comments that say whose they are."""
    names = [
        (f"KUBE-SVC-{n:016}", [f"KUBE-SEP-{n:015}{k}" for k in (0, 1)], endpoints(n))
        for n in range(services)
    ]
    own_chains = [
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-NODEPORTS - [0:0]",
        ":KUBE-POSTROUTING - [0:0]",
        ":KUBE-MARK-MASQ - [0:0]",
    ]
    lines = [
        "*nat",
        *own_chains,
        *(f":{name} - [0:0]" for service, own, _ in names for name in (service, *own)),
    ]
    lines.append("-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000")
    lines.append("-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN")
    lines.append("-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000")
    lines.append("-A KUBE-POSTROUTING -j MASQUERADE --random-fully")
    for n, (service, own, addresses) in enumerate(names):
        whose = f'-m comment --comment "default/svc-{n}:http'
        lines.append(
            f'-A KUBE-SERVICES {whose} cluster IP" -m tcp -p tcp -d {vip(n)} --dport 80 -j {service}'
        )
        lines.append(
            f'-A {service} {whose} cluster IP" -m tcp -p tcp -d {vip(n)} --dport 80 ! -s {PODS} -j KUBE-MARK-MASQ'
        )
        for name, address, share in zip(
            own, addresses, ("-m statistic --mode random --probability 0.5 ", ""), strict=True
        ):
            lines.append(f'-A {service} {whose} -> {address}:8080" {share}-j {name}')
            lines.append(f'-A {name} {whose}" -s {address} -j KUBE-MARK-MASQ')
            lines.append(
                f'-A {name} {whose}" -m tcp -p tcp -j DNAT --to-destination {address}:8080'
            )
    lines.append("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
    lines += (
        f"-A {hook} -j KUBE-{'POSTROUTING' if hook == 'POSTROUTING' else 'SERVICES'}"
        for hook in ("PREROUTING", "OUTPUT", "POSTROUTING")
    )
    return "\n".join([*lines, "COMMIT", IPTABLES_BESIDE])


BASELINES = {
    "nftables,layout=fast": Baseline(("nft", "-f", "-"), nft_map),
    "nftables,layout=faithful": Baseline(("nft", "-f", "-"), nft_chains),
    "iptables": Baseline(("iptables-nft-restore", "--noflush"), iptables_chains),
}


def run(rounds: int = ROUNDS, sizes: Sequence[int] = SIZES, plot: Path | None = None) -> None:
    """Prints both tables, and draws how long the connects to the last Service take."""
    rows = [row for size in sizes for mode in BASELINES for row in [_loading(mode, size, rounds)]]
    print(heading(rounds))
    print(table(("Services", "mode", "loaded", "by hand", "ratio", "words before"), rows))
    with folder() as files:
        program = compiled("roundtrip", files)
        if program is None:
            print("no connects: gcc is not installed")
            return
        found = {
            (size, mode): _connecting(mode, size, rounds, files, program)
            for size in sizes
            for mode in MODES
        }
    print(
        table(
            ("Services", "mode", "connect to the first, µs", "to the last", "ratio"),
            [_row(*which, *pair) for which, pair in found.items()],
        )
    )
    if plot is not None:
        lines = {
            mode: [(size, statistics.median(found[size, mode][1])) for size in sizes]
            for mode in MODES
        }
        plot.write_text(
            svg("connect() to the last of many Services", "Services", "microseconds", lines)
        )


def _loading(mode: str, services: int, rounds: int) -> list[str]:
    """In a namespace of its own each, in turn: what the node agent does, and a program that reads what a hand has written."""
    ours, by_hand, words = [], [], []
    text = BASELINES[mode].text(services)
    for _ in range(rounds):
        quiet()
        made, loaded = output(
            "unshare", "-n", PYTHON, "-m", "bench.rules", mode, str(services)
        ).split()
        words.append(float(made))
        ours.append(float(loaded))
        quiet()
        begun = time.perf_counter()
        output("unshare", "-n", *BASELINES[mode].command, given=text)
        by_hand.append(time.perf_counter() - begun)
    cells = (f"{statistics.median(values):.3f} s" for values in (ours, by_hand))
    return [
        f"{services:,}",
        f"`{mode}`",
        *cells,
        f"{ratio(ours, by_hand):.2f}",
        f"{statistics.median(words):.3f} s",
    ]


def _connecting(
    mode: str, services: int, rounds: int, files: Any, program: Any
) -> tuple[list[float], list[float]]:
    """Microseconds of connects to the first Service and to the last, round by round."""
    processors = sorted(os.sched_getaffinity(0))
    manifest = files / "services.yaml"
    cluster = manifests.paths(ECHO, SINK).replace(
        "kind: Cluster\n", f"kind: Cluster\nnetworking: {{serviceSubnet: {SERVICES}}}\n"
    )
    manifest.write_text(cluster + "".join(_service(number) for number in range(services)))
    first: list[float] = []
    last: list[float] = []
    output(
        KUBENETLAB, "up", "--lab", LAB, "-f", str(manifest), "--proxy", mode, "--timeout", "300s"
    )
    with lab(), servers(in_the_lab, program, processors):
        for _ in range(rounds):
            for number, found in ((0, first), (services - 1, last)):
                client = (*in_the_lab("client"), "taskset", "-c", str(processors[0]), str(program))
                found.append(
                    float(output(*client, "ask", vip(number), "80", str(CONNECTS), "1").split()[0])
                )
    return first, last


def _row(services: int, mode: str, first: list[float], last: list[float]) -> list[str]:
    cells = (f"{statistics.median(values):.1f}" for values in (first, last))
    return [f"{services:,}", f"`{mode}`", *cells, f"{ratio(last, first):.2f}"]


def _service(number: int) -> str:
    return (
        f"---\n{{apiVersion: v1, kind: Service, metadata: {{name: many-{number}}}, "
        f"spec: {{clusterIP: {vip(number)}, selector: {{app: near}}, ports: [{{port: 80, targetPort: {ECHO}}}]}}}}\n"
    )


# --- in a namespace of its own ---


def _views(services: int) -> Iterator[ServiceView]:
    for number in range(services):
        name = {"name": f"svc-{number}", "namespace": "default"}
        spec = {
            "clusterIP": vip(number),
            "clusterIPs": [vip(number)],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        }
        found = [
            {"addresses": [address], "conditions": {"ready": True}} for address in endpoints(number)
        ]
        piece = {
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": found,
        }
        service = decode_object(
            {"apiVersion": "v1", "kind": "Service", "metadata": name, "spec": spec}, Service
        ).value
        slice_ = decode_object(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": name,
                **piece,
            },
            EndpointSlice,
        ).value
        assert isinstance(service, Service)
        assert isinstance(slice_, EndpointSlice)
        yield ServiceView(service, (slice_,))


def load_here(words: str, services: int) -> None:
    """Prints how long the words took to be put together, and how long to be loaded."""
    options = parsed(words)
    mode, network = (
        modes.load("proxy", str(options.pop("type")), options),
        PodNetwork(1500, (PODS,)),
    )
    family = Family("172.18.0.2", "10.240.0.0/24")
    node = NodeView(
        "n",
        (family,),
        (),
        (),
        (PODS,),
        (SERVICES,),
        ("172.18.0.0/16",),
        "cluster.local",
        ("10.96.0.10",),
        "onlink",
        "dynamic",
    )
    known = ProxyView(VersionedMap((view.service.key, view) for view in _views(services)))
    objects = [obj for obj in mode.node(node, network) if isinstance(obj, RuleObject)]
    objects += [
        NodeRules(node.netns, found)
        for found in service_rules(PlanCache(), mode, known, node, network)
        if isinstance(found, RuleSet)
    ]
    begun = time.perf_counter()
    wanted = steps([], objects, {}, anew=False)
    made = time.perf_counter()
    for step in wanted:
        with closing(open_here(step.dialect)) as loader:
            loader.run(step.text)
    print(f"{made - begun:.6f} {time.perf_counter() - made:.6f}")


if __name__ == "__main__":
    load_here(sys.argv[1], int(sys.argv[2]))

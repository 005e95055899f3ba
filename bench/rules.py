"""Benchmark rules: time to load Services on a node, and to connect to the first and the last one.

Loading is compared with hand-written rules for the same Services.
"""

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
from kubenetlab.api.manifests.objects import decode_object
from kubenetlab.cli.input.mode_options import parse_mode
from kubenetlab.datapath import modes
from kubenetlab.datapath.modes import PodNetwork
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.proxy_views import ProxyView
from kubenetlab.datapath.service_rules import service_rules
from kubenetlab.datapath.services.view import ServiceView
from kubenetlab.datapath.view import Family, NodeView
from kubenetlab.hoststate.rules.rulesets import NodeRules, RuleObject, RuleSet
from kubenetlab.hoststate.rules.transactions import steps
from kubenetlab.kernel.rules.backends import open_loader
from kubenetlab.versioned import VersionedMap

SIZES = (100, 1000)
LARGE = 10_000
ROUNDS = 3
MODES = ("nftables,layout=fast", "nftables,layout=faithful", "iptables", "ebpf")
PODS, SERVICES = "10.240.0.0/12", "10.96.0.0/12"


def cluster_ip(number: int) -> str:
    return str(IPv4Address("10.100.0.0") + number)


def endpoints(number: int) -> list[str]:
    return [str(IPv4Address("10.240.1.0") + 2 * number + index) for index in (0, 1)]


class Baseline(NamedTuple):
    """A program, and a function that returns its input for a number of Services."""

    command: tuple[str, ...]
    text: Callable[[int], str]


def nft_map(services: int) -> str:
    """Return a ruleset with one rule and one map."""
    entries = (
        f"{cluster_ip(n)} . tcp . 80 . {k} : {ep} . 8080"
        for n in range(services)
        for k, ep in enumerate(endpoints(n))
    )
    key = "ip daddr . meta l4proto . th dport . numgen random mod"
    return (
        f"table ip t {{\nmap eps {{ typeof {key} 65536 : ip daddr . th dport; "
        f"elements = {{ {', '.join(entries)} }}\n}}\n"
        f"chain pre {{ type nat hook prerouting priority -100; dnat to {key} 2 map @eps\n}}\n}}\n"
    )


def nft_chains(services: int) -> str:
    """Return kube-proxy's ruleset: a map, a chain for each Service and one for each endpoint."""
    chains = "".join(
        "".join(
            f"chain e{n}x{k} {{ ip saddr {ep} jump masq\nmeta l4proto tcp dnat to {ep}:8080\n}}\n"
            for k, ep in enumerate(endpoints(n))
        )
        + f"chain s{n} {{ ip daddr {cluster_ip(n)} ip saddr != {PODS} jump masq\n"
        f"numgen random mod 2 vmap {{ 0 : goto e{n}x0, 1 : goto e{n}x1 }}\n}}\n"
        for n in range(services)
    )
    entries = ", ".join(f"{cluster_ip(n)} . tcp . 80 : goto s{n}" for n in range(services))
    return (
        f"table ip t {{\nchain masq {{ mark set mark or 0x4000\n}}\n{chains}"
        "map ips { type ipv4_addr . inet_proto . inet_service : verdict; "
        f"elements = {{ {entries} }}\n}}\n"
        "chain pre { type nat hook prerouting priority -100; "
        "ip daddr . meta l4proto . th dport vmap @ips\n}\n}\n"
    )


IPTABLES_OTHER_RULES = """\
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
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack \
! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
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
"""Rules of kube-proxy and the kubelet in the other tables, and jumps from the built-in chains."""


def iptables_chains(services: int) -> str:
    """Return kube-proxy's rules: a rule and a chain for each Service, a chain for each endpoint."""
    chains = [
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
        *(
            f":{name} - [0:0]"
            for service, endpoint_chains, _ in chains
            for name in (service, *endpoint_chains)
        ),
    ]
    lines.append("-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000")
    lines.append("-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN")
    lines.append("-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000")
    lines.append("-A KUBE-POSTROUTING -j MASQUERADE --random-fully")
    for n, (service, endpoint_chains, addresses) in enumerate(chains):
        comment = f'-m comment --comment "default/svc-{n}:http'
        destination = f"-m tcp -p tcp -d {cluster_ip(n)} --dport 80"
        lines.append(f'-A KUBE-SERVICES {comment} cluster IP" {destination} -j {service}')
        lines.append(
            f'-A {service} {comment} cluster IP" {destination} ! -s {PODS} -j KUBE-MARK-MASQ'
        )
        for name, address, share in zip(
            endpoint_chains,
            addresses,
            ("-m statistic --mode random --probability 0.5 ", ""),
            strict=True,
        ):
            lines.append(f'-A {service} {comment} -> {address}:8080" {share}-j {name}')
            lines.append(f'-A {name} {comment}" -s {address} -j KUBE-MARK-MASQ')
            lines.append(
                f'-A {name} {comment}" -m tcp -p tcp -j DNAT --to-destination {address}:8080'
            )
    lines.append("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
    lines += (
        f"-A {hook} -j KUBE-{'POSTROUTING' if hook == 'POSTROUTING' else 'SERVICES'}"
        for hook in ("PREROUTING", "OUTPUT", "POSTROUTING")
    )
    return "\n".join([*lines, "COMMIT", IPTABLES_OTHER_RULES])


BASELINES = {
    "nftables,layout=fast": Baseline(("nft", "-f", "-"), nft_map),
    "nftables,layout=faithful": Baseline(("nft", "-f", "-"), nft_chains),
    "iptables": Baseline(("iptables-nft-restore", "--noflush"), iptables_chains),
}


def run(rounds: int = ROUNDS, sizes: Sequence[int] = SIZES, plot: Path | None = None) -> None:
    """Print both tables, and plot the connect times to the last Service."""
    rows = [row for size in sizes for mode in BASELINES for row in [_loading(mode, size, rounds)]]
    print(heading(rounds))
    print(table(("Services", "mode", "loaded", "by hand", "ratio", "rendering"), rows))
    with folder() as files:
        program = compiled("roundtrip", files)
        if program is None:
            print("no connects: gcc is not installed")
            return
        connects = {
            (size, mode): _connecting(mode, size, rounds, files, program)
            for size in sizes
            for mode in MODES
        }
    print(
        table(
            ("Services", "mode", "connect to the first, µs", "to the last", "ratio"),
            [_row(*size_and_mode, *pair) for size_and_mode, pair in connects.items()],
        )
    )
    if plot is not None:
        lines = {
            mode: [(size, statistics.median(connects[size, mode][1])) for size in sizes]
            for mode in MODES
        }
        plot.write_text(
            svg("connect() to the last of many Services", "Services", "microseconds", lines)
        )


def _loading(mode: str, services: int, rounds: int) -> list[str]:
    """Measure the node agent's loading and the baseline in turn, each in a new namespace."""
    lab_times, baseline_times, render_times = [], [], []
    text = BASELINES[mode].text(services)
    for _ in range(rounds):
        quiet()
        rendered, loaded = output(
            "unshare", "-n", PYTHON, "-m", "bench.rules", mode, str(services)
        ).split()
        render_times.append(float(rendered))
        lab_times.append(float(loaded))
        quiet()
        started = time.perf_counter()
        output("unshare", "-n", *BASELINES[mode].command, stdin=text)
        baseline_times.append(time.perf_counter() - started)
    cells = (f"{statistics.median(values):.3f} s" for values in (lab_times, baseline_times))
    return [
        f"{services:,}",
        f"`{mode}`",
        *cells,
        f"{ratio(lab_times, baseline_times):.2f}",
        f"{statistics.median(render_times):.3f} s",
    ]


def _connecting(
    mode: str, services: int, rounds: int, files: Any, program: Any
) -> tuple[list[float], list[float]]:
    """Return the connect times to the first and to the last Service in microseconds, by round."""
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
            for number, times in ((0, first), (services - 1, last)):
                client = (*in_the_lab("client"), "taskset", "-c", str(processors[0]), str(program))
                times.append(
                    float(
                        output(
                            *client, "ask", cluster_ip(number), "80", str(CONNECTS), "1"
                        ).split()[0]
                    )
                )
    return first, last


def _row(services: int, mode: str, first: list[float], last: list[float]) -> list[str]:
    cells = (f"{statistics.median(values):.1f}" for values in (first, last))
    return [f"{services:,}", f"`{mode}`", *cells, f"{ratio(last, first):.2f}"]


def _service(number: int) -> str:
    return (
        f"---\n{{apiVersion: v1, kind: Service, metadata: {{name: many-{number}}}, "
        f"spec: {{clusterIP: {cluster_ip(number)}, selector: {{app: near}}, "
        f"ports: [{{port: 80, targetPort: {ECHO}}}]}}}}\n"
    )


# --- run in a new namespace ---


def _views(services: int) -> Iterator[ServiceView]:
    for number in range(services):
        name = {"name": f"svc-{number}", "namespace": "default"}
        spec = {
            "clusterIP": cluster_ip(number),
            "clusterIPs": [cluster_ip(number)],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        }
        slice_endpoints = [
            {"addresses": [address], "conditions": {"ready": True}} for address in endpoints(number)
        ]
        slice_fields = {
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": slice_endpoints,
        }
        service = decode_object(
            {"apiVersion": "v1", "kind": "Service", "metadata": name, "spec": spec}, Service
        ).value
        slice_ = decode_object(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": name,
                **slice_fields,
            },
            EndpointSlice,
        ).value
        assert isinstance(service, Service)
        assert isinstance(slice_, EndpointSlice)
        yield ServiceView(service, (slice_,))


def load_here(option: str, services: int) -> None:
    """Print the seconds in which the rules were rendered, and those in which they were loaded."""
    options = parse_mode(option)
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
        "dynamic",
    )
    view = ProxyView(VersionedMap((view.service.key, view) for view in _views(services)))
    objects = [obj for obj in mode.node(node, network) if isinstance(obj, RuleObject)]
    objects += [
        NodeRules(node.netns, rule_set)
        for rule_set in service_rules(PlanCache(), mode, view, node, network)
        if isinstance(rule_set, RuleSet)
    ]
    started = time.perf_counter()
    transactions = steps([], objects, {}, anew=False)
    rendered = time.perf_counter()
    for transaction in transactions:
        with closing(open_loader(transaction.backend)) as loader:
            loader.run(transaction.text)
    print(f"{rendered - started:.6f} {time.perf_counter() - rendered:.6f}")


if __name__ == "__main__":
    load_here(sys.argv[1], int(sys.argv[2]))

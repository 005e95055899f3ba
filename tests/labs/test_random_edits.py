"""Whatever is edited, packets go where Kubernetes promises: random edits of Services, slices and
pods, and probes after each batch.

What is promised says tests/labs/oracle.py, which shares nothing with the package: all addresses and
node ports are asked for by the manifests, so that it need not look.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest

from tests.labs.lab import Lab
from tests.labs.oracle import NODES, Endpoint, Outcomes, Place, Pod, Service, State, Way
from tests.labs.traffic_client import Answer
from tests.labs.world import PROXIES, World, in_document

BATCHES, EDITS, PROBES = 4, 25, 60
THOROUGH_BATCHES = 20
PREFIXES = {
    4: ("172.18.0.", "10.244.", "10.96.9.", "203.0.113.", "192.0.2."),
    6: ("fd00:172:18::", "fd00:10:244:", "fd00:10:96::9", "2001:db8:0:113::", "2001:db8:1::"),
}
CLIENTS = {
    4: {"client": "198.51.100.10", "stranger": "198.51.100.11"},
    6: {"client": "2001:db8:51:100::10", "stranger": "2001:db8:51:100::11"},
}
FIXED = ("f0", "f1", "f2")
SELECTING = tuple(f"s{number}" for number in range(7))
BY_HAND = ("h7", "h8", "h9")
APPS = ("x", "y", "z")

Probe = tuple[str, str, Way, str]
"""Who asks which Service by which of its addresses, with a node port at which node."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "batches" in metafunc.fixturenames:
        metafunc.parametrize(
            "batches", [THOROUGH_BATCHES if metafunc.config.getoption("--thorough") else BATCHES]
        )


class Edited:
    """What is in the lab, what is asked of it, and what has to come of that."""

    def __init__(self, proxy: str, version: int, seed: int) -> None:
        self.proxy, self.version = proxy, version
        self.chance = Random(seed)
        nodes, self.pod_prefix, self.cluster_prefix, self.balanced_prefix, self.external_prefix = (
            PREFIXES[version]
        )
        node_addresses = {name: f"{nodes}{2 + number}" for number, name in enumerate(NODES)}
        self.state = State({}, {}, node_addresses, proxy.partition(",")[0])
        for number, name in enumerate(FIXED):
            self.state.pods[name] = self._pod(name, list(NODES)[number], "fixed")
        for name in (*SELECTING[:4], *BY_HAND[:1]):
            self.state.services[name] = self._service(name)
        self.gone: set[str] = set()
        """`kind/name` of what has been deleted since the last batch."""

    # --- edits ---

    def edit(self) -> None:
        self.chance.choices((self._edit_service, self._edit_pod, self._delete), (6, 5, 2))[0]()

    def _edit_service(self) -> None:
        name = self.chance.choice((*SELECTING, *BY_HAND))
        fresh = self._service(name)
        if old := self.state.services.get(name):
            some = self.chance.sample(sorted(vars(fresh)), 2)
            fresh = replace(
                old, **{key: value for key, value in vars(fresh).items() if key in some}
            )
        self.state.services[name] = fresh

    def _edit_pod(self) -> None:
        number = self.chance.randrange(8)
        name = f"p{number}"
        node = list(NODES)[number % len(NODES)]
        self.state.pods[name] = self._pod(
            name, node, self.chance.choice(APPS), is_ready=self.chance.random() < 0.7
        )

    def _delete(self) -> None:
        services, pods = sorted(self.state.services), sorted(set(self.state.pods) - set(FIXED))
        if pods and self.chance.random() < 0.6:
            name = self.chance.choice(pods)
            del self.state.pods[name]
            self.gone.add(f"pod/{name}")
        elif services:
            name = self.chance.choice(services)
            del self.state.services[name]
            self.gone.add(f"service/{name}")

    def _pod(self, name: str, node: str, app: str, *, is_ready: bool = True) -> Pod:
        number = list(NODES).index(node)
        last = {"f": 50, "p": 60}[name[0]] + int(name[1:])
        address = ip_address(f"{self.pod_prefix}{number}{'.' if self.version == 4 else '::'}{last}")
        return Pod(node, str(address), app, is_ready)

    def _service(self, name: str) -> Service:
        chance = self.chance
        address = CLIENTS[self.version]["client"]
        ranges = (
            f"{address}/{32 if self.version == 4 else 128}",
            f"{self.state.node_addresses['worker']}/{32 if self.version == 4 else 128}",
        )
        return Service(
            chance.choice(("ClusterIP", "NodePort", "LoadBalancer")),
            chance.choice(("TCP", "TCP", "UDP")),
            "" if name in BY_HAND else chance.choice((*APPS, "nobody")),
            tuple(
                Endpoint(
                    pod,
                    *chance.choice(
                        (
                            (True, True, False),
                            (False, True, True),
                            (False, False, True),
                            (False, False, False),
                        )
                    ),
                )
                for pod in chance.sample(FIXED, chance.randint(0, 3))
            )
            if name in BY_HAND
            else (),
            chance.choice(("Cluster", "Local")),
            chance.choice(("Cluster", "Local")),
            chance.random() < 0.3,
            chance.random() < 0.3,
            tuple(chance.sample(ranges, chance.randint(1, 2))) if chance.random() < 0.3 else (),
            chance.random() < 0.2,
            chance.choice(("", "", "PreferSameZone", "PreferSameNode")),
        )

    # --- probes ---

    def places(self) -> dict[str, Place]:
        """Who may ask."""
        found = {
            name: Place("pod", name, pod.address, pod.node) for name, pod in self.state.pods.items()
        }
        found |= {
            f"node:{name}": Place("node", name, address, name)
            for name, address in self.state.node_addresses.items()
        }
        return found | {
            f"ext:{name}": Place("ext", name, address)
            for name, address in CLIENTS[self.version].items()
        }

    def probes(self, count: int) -> list[Probe]:
        """Each Service by each of its ways, from somewhere; then whatever chance adds."""
        ways = [
            (name, way)
            for name, service in self.state.services.items()
            for way in self._ways(service)
        ]
        chosen = ways + self.chance.choices(ways, k=max(0, count - len(ways))) if ways else []
        places = sorted(self.places())
        found: list[Probe] = []
        for name, way in chosen:
            inside = [place for place in places if way != "cluster" or not place.startswith("ext:")]
            found.append(
                (
                    self.chance.choice(inside),
                    name,
                    way,
                    self.chance.choice(sorted(NODES)) if way == "node" else "",
                )
            )
        return found

    def _ways(self, service: Service) -> Iterator[Way]:
        yield "cluster"
        if service.type != "ClusterIP":
            yield "node"
        if service.type == "LoadBalancer":
            yield "balanced"
        if service.has_external_ip:
            yield "external"

    def target(self, probe: Probe) -> tuple[str, str, int]:
        _, name, way, node = probe
        protocol, number = self.state.services[name].protocol, int(name[1:])
        if way == "node":
            return protocol, self.state.node_addresses[node], 30010 + number
        prefix = {
            "cluster": self.cluster_prefix,
            "balanced": self.balanced_prefix,
            "external": self.external_prefix,
        }[way]
        return protocol, f"{prefix}{10 + number}", 80

    def expected(self, probe: Probe) -> Outcomes | None:
        source, name, way, node = probe
        return self.state.outcomes(self.places()[source], self.state.services[name], way, node)

    # --- manifests ---

    def cluster(self) -> str:
        nodes = ", ".join(
            f"{{role: {'control-plane' if name == 'control-plane' else 'worker'}, name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}"
            for name, zone in NODES.items()
        )
        external = ", ".join(
            f"{{name: {name}, address: '{address}'}}"
            for name, address in CLIENTS[self.version].items()
        )
        document = f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnodes: [{nodes}]\nexternal: [{external}]\n"
        return f"{document}networking: {{ipFamily: ipv{self.version}, kubeProxyMode: {in_document(self.proxy)}}}\n"

    def manifest(self) -> str:
        documents = [
            json.dumps(self._pod_document(name, pod)) for name, pod in self.state.pods.items()
        ]
        for name, service in self.state.services.items():
            documents.append(json.dumps(self._service_document(name, service)))
            if name in BY_HAND:
                documents.append(json.dumps(self._slice_document(name, service)))
        return "\n---\n".join([self.cluster(), *documents])

    def _pod_document(self, name: str, pod: Pod) -> dict[str, Any]:
        annotations = {
            "kubenetlab.dev/addresses": pod.address,
            "kubenetlab.dev/ready": "true" if pod.is_ready else "false",
        }
        container = {"name": "main", "image": "agnhost", "args": ["netexec"]}
        tolerations = [{"operator": "Exists"}]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": pod.app}, "annotations": annotations},
            "spec": {"nodeName": pod.node, "tolerations": tolerations, "containers": [container]},
        }

    def _service_document(self, name: str, service: Service) -> dict[str, Any]:
        number = int(name[1:])
        port = {
            "port": 80,
            "protocol": service.protocol,
            "targetPort": 8080 if service.protocol == "TCP" else 8081,
        }
        spec: dict[str, Any] = {
            "type": service.type,
            "clusterIP": f"{self.cluster_prefix}{10 + number}",
            "internalTrafficPolicy": service.internal,
            "sessionAffinity": "ClientIP" if service.has_affinity else "None",
            "publishNotReadyAddresses": service.publishes_unready,
            "ports": [port],
        }
        if service.app:
            spec["selector"] = {"app": service.app}
        if service.distribution:
            spec["trafficDistribution"] = service.distribution
        if service.has_external_ip:
            spec["externalIPs"] = [f"{self.external_prefix}{10 + number}"]
        if service.type != "ClusterIP":
            port["nodePort"] = 30010 + number
        if service.type != "ClusterIP" or service.has_external_ip:
            spec["externalTrafficPolicy"] = service.external
        if service.type == "LoadBalancer":
            spec |= {
                "loadBalancerIP": f"{self.balanced_prefix}{10 + number}",
                "loadBalancerSourceRanges": list(service.sources),
            }
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}

    def _slice_document(self, name: str, service: Service) -> dict[str, Any]:
        endpoints = [
            {
                "addresses": [self.state.pods[entry.pod].address],
                "nodeName": self.state.pods[entry.pod].node,
                "conditions": {
                    "ready": entry.is_ready,
                    "serving": entry.is_serving,
                    "terminating": entry.is_terminating,
                },
            }
            for entry in service.slice
        ]
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-by-hand", "labels": {"kubernetes.io/service-name": name}},
            "addressType": f"IPv{self.version}",
            "ports": [
                {
                    "name": "",
                    "port": 8080 if service.protocol == "TCP" else 8081,
                    "protocol": service.protocol,
                }
            ],
            "endpoints": endpoints,
        }


KINDS = [(proxy, 4 + 2 * (number % 2)) for number, proxy in enumerate(PROXIES)]
"""Every mode, in one IP version or the other."""


@pytest.mark.parametrize(("proxy", "version"), KINDS)
def test_packets_follow_every_edit(lab: Lab, proxy: str, version: int, batches: int) -> None:
    """Every way of every Service after each batch: who answers, whom it sees, or how it is that
    nobody does.
    """
    follow(lab, Edited(proxy, version, seed=version), batches)


def follow(lab: Lab, edited: Edited, batches: int) -> None:
    """A lab through so many batches of edits, each with its probes."""
    for batch in range(batches + 1):
        for _ in range(EDITS if batch else 0):
            edited.edit()
        if edited.gone:
            lab.run(
                "delete", *sorted(edited.gone), status=None
            )  # some are to be made anew, or were never made
            edited.gone.clear()
        lab.run("up", "-f", "-", given=edited.manifest())
        probe(edited, World(lab, edited.version), batch)


def probe(edited: Edited, world: World, batch: int) -> None:
    """Asks all at once, and holds every answer against what is promised."""
    probes = edited.probes(PROBES)
    by_source = {
        source: [entry for entry in probes if entry[0] == source]
        for source in sorted({entry[0] for entry in probes})
    }
    asked = world.ask_each(
        *(
            (source, [edited.target(entry) for entry in entries])
            for source, entries in by_source.items()
        )
    )
    for entries, answers in zip(by_source.values(), asked, strict=True):
        for entry, answer in zip(entries, answers, strict=True):
            expected = edited.expected(entry)
            if answer.error == RESET:
                (answer,) = world.ask(entry[0], edited.target(entry))
            if expected is not None:
                what = f"batch {batch}: {entry} {edited.target(entry)}: {edited.state.services[entry[1]]}, pods {edited.state.pods}"
                assert is_among(answer, expected), f"{what}\n{answer}\nwanted {expected}"


RESET = "[Errno 104] Connection reset by peer"
"""What connection tracking finds invalid, a late packet of a connection, is not translated.

By iptables kube-proxy drops it; by nftables it goes out to the load balancer, which may lead it to
another node's endpoint, and that knows of no such connection. Who asks anew is answered.
"""
DENIED = "[Errno 1] Operation not permitted"
"""What a program hears whose datagram is refused, or dropped, on the way out of its own node."""


def is_among(answer: Answer, expected: Outcomes) -> bool:
    """True for one of the outcomes that may come."""
    if answer.error:
        return bool(expected.errors) if answer.error == DENIED else answer.error in expected.errors
    return (answer.who, answer.seen[0]) in expected.answers

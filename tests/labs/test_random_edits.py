"""Random edits of Services, EndpointSlices and pods, with probes after each batch of edits.

tests/labs/oracle.py knows the promised outcomes and does not import the package. The manifests
request all addresses and node ports, so that the tests need not read them.
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
from tests.labs.lab_view import PROXY_MODES, LabView, mode_in_document
from tests.labs.oracle import NODES, AddressKind, Endpoint, Outcomes, Place, Pod, Service, State
from tests.labs.traffic_client import Answer

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
WITH_SLICES = ("h7", "h8", "h9")
APPS = ("x", "y", "z")

Probe = tuple[str, str, AddressKind, str]
"""(source, Service, kind of its address, node of a node port)"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "batches" in metafunc.fixturenames:
        metafunc.parametrize(
            "batches", [THOROUGH_BATCHES if metafunc.config.getoption("--thorough") else BATCHES]
        )


class EditedLab:
    """Desired objects of the lab, probes of its Services, and their expected outcomes."""

    def __init__(self, proxy: str, version: int, seed: int) -> None:
        self.proxy, self.version = proxy, version
        self.random = Random(seed)
        nodes, self.pod_prefix, self.cluster_prefix, self.balanced_prefix, self.external_prefix = (
            PREFIXES[version]
        )
        node_addresses = {name: f"{nodes}{2 + number}" for number, name in enumerate(NODES)}
        self.state = State({}, {}, node_addresses, proxy.partition(",")[0])
        for number, name in enumerate(FIXED):
            self.state.pods[name] = self._pod(name, list(NODES)[number], "fixed")
        for name in (*SELECTING[:4], *WITH_SLICES[:1]):
            self.state.services[name] = self._service(name)
        self.deleted: set[str] = set()
        """Objects, as `kind/name`, that were deleted since the last batch."""

    # --- edits ---

    def edit(self) -> None:
        self.random.choices((self._edit_service, self._edit_pod, self._delete), (6, 5, 2))[0]()

    def _edit_service(self) -> None:
        name = self.random.choice((*SELECTING, *WITH_SLICES))
        service = self._service(name)
        if former := self.state.services.get(name):
            changed_fields = self.random.sample(sorted(vars(service)), 2)
            service = replace(
                former,
                **{key: value for key, value in vars(service).items() if key in changed_fields},
            )
        self.state.services[name] = service

    def _edit_pod(self) -> None:
        number = self.random.randrange(8)
        name = f"p{number}"
        node = list(NODES)[number % len(NODES)]
        self.state.pods[name] = self._pod(
            name, node, self.random.choice(APPS), is_ready=self.random.random() < 0.7
        )

    def _delete(self) -> None:
        services, pods = sorted(self.state.services), sorted(set(self.state.pods) - set(FIXED))
        if pods and self.random.random() < 0.6:
            name = self.random.choice(pods)
            del self.state.pods[name]
            self.deleted.add(f"pod/{name}")
        elif services:
            name = self.random.choice(services)
            del self.state.services[name]
            self.deleted.add(f"service/{name}")

    def _pod(self, name: str, node: str, app: str, *, is_ready: bool = True) -> Pod:
        number = list(NODES).index(node)
        last = {"f": 50, "p": 60}[name[0]] + int(name[1:])
        address = ip_address(f"{self.pod_prefix}{number}{'.' if self.version == 4 else '::'}{last}")
        return Pod(node, str(address), app, is_ready)

    def _service(self, name: str) -> Service:
        random = self.random
        address = CLIENTS[self.version]["client"]
        ranges = (
            f"{address}/{32 if self.version == 4 else 128}",
            f"{self.state.node_addresses['worker']}/{32 if self.version == 4 else 128}",
        )
        return Service(
            random.choice(("ClusterIP", "NodePort", "LoadBalancer")),
            random.choice(("TCP", "TCP", "UDP")),
            "" if name in WITH_SLICES else random.choice((*APPS, "nobody")),
            tuple(
                Endpoint(
                    pod,
                    *random.choice(
                        (
                            (True, True, False),
                            (False, True, True),
                            (False, False, True),
                            (False, False, False),
                        )
                    ),
                )
                for pod in random.sample(FIXED, random.randint(0, 3))
            )
            if name in WITH_SLICES
            else (),
            random.choice(("Cluster", "Local")),
            random.choice(("Cluster", "Local")),
            random.random() < 0.3,
            random.random() < 0.3,
            tuple(random.sample(ranges, random.randint(1, 2))) if random.random() < 0.3 else (),
            random.random() < 0.2,
            random.choice(("", "", "PreferSameZone", "PreferSameNode")),
        )

    # --- probes ---

    def places(self) -> dict[str, Place]:
        """Return the possible clients."""
        pods = {
            name: Place("pod", name, pod.address, pod.node) for name, pod in self.state.pods.items()
        }
        pods |= {
            f"node:{name}": Place("node", name, address, name)
            for name, address in self.state.node_addresses.items()
        }
        return pods | {
            f"ext:{name}": Place("ext", name, address)
            for name, address in CLIENTS[self.version].items()
        }

    def probes(self, count: int) -> list[Probe]:
        """Return one probe for each kind of address of each Service, and random ones."""
        addresses = [
            (name, kind)
            for name, service in self.state.services.items()
            for kind in self._address_kinds(service)
        ]
        chosen = (
            addresses + self.random.choices(addresses, k=max(0, count - len(addresses)))
            if addresses
            else []
        )
        places = sorted(self.places())
        probes: list[Probe] = []
        for name, kind in chosen:
            clients = [
                place for place in places if kind != "cluster" or not place.startswith("ext:")
            ]
            probes.append(
                (
                    self.random.choice(clients),
                    name,
                    kind,
                    self.random.choice(sorted(NODES)) if kind == "node" else "",
                )
            )
        return probes

    def _address_kinds(self, service: Service) -> Iterator[AddressKind]:
        yield "cluster"
        if service.type != "ClusterIP":
            yield "node"
        if service.type == "LoadBalancer":
            yield "balanced"
        if service.has_external_ip:
            yield "external"

    def target(self, probe: Probe) -> tuple[str, str, int]:
        _, name, kind, node = probe
        protocol, number = self.state.services[name].protocol, int(name[1:])
        if kind == "node":
            return protocol, self.state.node_addresses[node], 30010 + number
        prefix = {
            "cluster": self.cluster_prefix,
            "balanced": self.balanced_prefix,
            "external": self.external_prefix,
        }[kind]
        return protocol, f"{prefix}{10 + number}", 80

    def expected(self, probe: Probe) -> Outcomes | None:
        source, name, kind, node = probe
        return self.state.outcomes(self.places()[source], self.state.services[name], kind, node)

    # --- manifests ---

    def cluster(self) -> str:
        nodes = ", ".join(
            f"{{role: {'control-plane' if name == 'control-plane' else 'worker'}, "
            f"name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}"
            for name, zone in NODES.items()
        )
        external = ", ".join(
            f"{{name: {name}, address: '{address}'}}"
            for name, address in CLIENTS[self.version].items()
        )
        proxy = mode_in_document(self.proxy)
        return (
            "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
            f"nodes: [{nodes}]\nexternal: [{external}]\n"
            f"networking: {{ipFamily: ipv{self.version}, kubeProxyMode: {proxy}}}\n"
        )

    def manifest(self) -> str:
        documents = [
            json.dumps(self._pod_document(name, pod)) for name, pod in self.state.pods.items()
        ]
        for name, service in self.state.services.items():
            documents.append(json.dumps(self._service_document(name, service)))
            if name in WITH_SLICES:
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


VARIANTS = [(proxy, 4 + 2 * (number % 2)) for number, proxy in enumerate(PROXY_MODES)]
"""Every mode, in one IP version or the other."""


@pytest.mark.parametrize(("proxy", "version"), VARIANTS)
def test_outcomes_follow_every_edit(lab: Lab, proxy: str, version: int, batches: int) -> None:
    """After each batch, each kind of address of each Service is probed.

    The outcome is the server and the client address that it sees, or the error.
    """
    run_batches(lab, EditedLab(proxy, version, seed=version), batches)


def run_batches(lab: Lab, edited: EditedLab, batches: int) -> None:
    """Apply batches of random edits, and probe after each."""
    for batch in range(batches + 1):
        for _ in range(EDITS if batch else 0):
            edited.edit()
        if edited.deleted:
            # Some of them are created again, or were never applied.
            lab.run("delete", *sorted(edited.deleted), status=None)
            edited.deleted.clear()
        lab.run("up", "-f", "-", stdin=edited.manifest())
        probe(edited, LabView(lab, edited.version), batch)


def probe(edited: EditedLab, view: LabView, batch: int) -> None:
    """Send all probes at the same time, and compare every answer with the expected outcomes."""
    probes = edited.probes(PROBES)
    by_source = {
        source: [entry for entry in probes if entry[0] == source]
        for source in sorted({entry[0] for entry in probes})
    }
    all_answers = view.ask_each(
        *(
            (source, [edited.target(entry) for entry in entries])
            for source, entries in by_source.items()
        )
    )
    for entries, answers in zip(by_source.values(), all_answers, strict=True):
        for entry, answer in zip(entries, answers, strict=True):
            expected = edited.expected(entry)
            if answer.error == RESET:
                (answer,) = view.ask(entry[0], edited.target(entry))
            if expected is not None:
                context = (
                    f"batch {batch}: {entry} {edited.target(entry)}: "
                    f"{edited.state.services[entry[1]]}, pods {edited.state.pods}"
                )
                assert is_among(answer, expected), f"{context}\n{answer}\nexpected {expected}"


RESET = "[Errno 104] Connection reset by peer"
"""Error of a connection with a late packet that connection tracking does not translate.

kube-proxy's mode iptables drops such a packet. In nftables, it reaches the load balancer, which may
send it to another node's endpoint without the connection. A new connection succeeds.
"""
DENIED = "[Errno 1] Operation not permitted"
"""Error for a datagram that is rejected, or dropped, on the way out of the client's own node."""


def is_among(answer: Answer, expected: Outcomes) -> bool:
    """Return True if the answer is one of the expected outcomes."""
    if answer.error:
        return bool(expected.errors) if answer.error == DENIED else answer.error in expected.errors
    return (answer.server, answer.client[0]) in expected.answers

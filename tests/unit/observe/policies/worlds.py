"""Small labs with network policies, and the results that are expected of probes in them."""

from __future__ import annotations

from kubenetlab.api.store import Cluster
from kubenetlab.observe.expect import expect, facts_of
from kubenetlab.observe.node_ports import at_node
from kubenetlab.observe.policies.verdicts import Decision
from kubenetlab.observe.service_ports import service_ports
from kubenetlab.observe.targets.locations import places
from tests.clusters import running, store
from tests.inspected import inspected, verdicts


def pod(name: str, node: str = "worker", spec: str = "", labels: str = "") -> str:
    """Return a pod of the namespace `default` that serves port 8080 on a node."""
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}{labels}}}}}
spec:
  nodeName: {node}
  {spec}
  containers: [{{name: main, image: app, ports: [{{name: http, containerPort: 8080}}]}}]
---
"""


def service(name: str, spec: str = "", selector: str = "app: web", kind: str = "ClusterIP") -> str:
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: {kind}
  selector: {{{selector}}}
  ports: [{{port: 80, targetPort: 8080}}]
  {spec}
---
"""


def policy(spec: str, name: str = "p") -> str:
    return f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}}}
spec: {spec}
---
"""


PODS = (
    pod("web")
    + pod("client")
    + pod("far", "worker2")
    + pod("agent", "worker2", "hostNetwork: true")
    + service("web")
    + service("open", "externalTrafficPolicy: Cluster", kind="LoadBalancer")
    + service("kept", "externalTrafficPolicy: Local", kind="LoadBalancer")
    + service("none", selector="app: none")
    + service("mixed", selector="group: mixed")
)
DENY = policy("{podSelector: {matchLabels: {app: web}}}")
"""Isolates `web` for ingress."""
FROM_CLIENT = policy(
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: "
    "{app: client}}}]}]}"
)
FROM_OUTSIDE = policy(
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: "
    "198.51.100.0/24}}]}]}"
)
FROM_NODES = policy(
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 172.18.0.0/16}}, "
    "{ipBlock: {cidr: 10.244.2.0/30}}]}]}"
)
NO_EGRESS = policy("{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress]}")

TIER = """
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: ops}
spec:
  priority: 5
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}
  ingress:
  - {name: no-far, action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {
      matchLabels: {app: far}}}}]}
  - {action: Allow, from: [{pods: {namespaceSelector: {}, podSelector: {
      matchLabels: {app: client}}}}]}
---
"""
"""A policy of the tier Admin that decides about two sources of `web`."""
EVERY_PEER = policy(
    """
  podSelector: {matchExpressions: [{key: app, operator: In, values: [web, far]}]}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: client}}
    - {namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}
    - podSelector: {matchLabels: {app: none}}
    - ipBlock: {cidr: 172.18.0.0/16, except: [172.18.0.3/32]}
    ports: [{port: http}, {port: nope}, {port: 1, endPort: 70, protocol: UDP}, {}]
  - {}
  policyTypes: [Ingress, Egress]
"""
)
"""A policy with all kinds of peers and ports."""
TEXTS = {
    "deny web": DENY,
    "from client": FROM_CLIENT,
    "from outside": FROM_OUTSIDE,
    "from nodes": FROM_NODES,
    "no egress of client": NO_EGRESS,
}


class World:
    """A lab with policies, as a command sees it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.seen = inspected(cluster)
        self.policies = verdicts(cluster)
        self.facts = facts_of(self.seen, self.policies)
        self.places = {place.title.removeprefix("default/"): place for place in places(self.seen)}
        self.services = {
            f"{'lb' if port.is_outside else 'svc'}:{port.name}": port
            for port in service_ports(self.seen)
        }

    def expected(self, source: str, destination: str) -> str:
        """Return the expected outcome of a probe.

        destination: a place, `svc:NAME`, `lb:NAME`, or `nodeport:NODE/NAME` for the first port.
        """
        if destination.startswith("nodeport:"):
            node, _, name = destination.removeprefix("nodeport:").partition("/")
            (target, *_) = at_node(self.seen, node, "default", name, self._node_port(name), "TCP")
            return expect(self.places[source], target, self.facts)
        other = self.services.get(destination) or self.places[destination]
        return expect(self.places[source], other, self.facts)

    def node_port(self, source: str, node: str, name: str = "open") -> Decision:
        """Return the decision for the node port of a Service."""
        address = self.places[f"node:{node}"].address
        return self.policies.decision(self.places[source], address, self._node_port(name), "TCP")

    def _node_port(self, name: str) -> int:
        (entry,) = (each for each in self.seen["services"] if each["name"] == name)
        port = entry["ports"][0]["node_port"]
        assert port is not None
        return port


def world(policies: str, pods: str = PODS) -> World:
    """Return a lab with policies: a name of `TEXTS`, or the policies themselves."""
    return World(lab_of(pods + TEXTS.get(policies, policies)))


def lab_of(text: str) -> Cluster:
    """Return the store of a lab in which everything runs."""
    return running(store(text))

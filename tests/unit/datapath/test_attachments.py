"""Facts about pods that CNI plugins get from the objects of the store."""

from __future__ import annotations

from kubenetlab.cni.capabilities import PodDns, PodSandbox, PortMapping
from kubenetlab.datapath.attachments import plan_attachments
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.lab import machine
from tests.clusters import pod, settled, store

CONFLIST = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    "networking: {cni: conflist, ipFamily: dual}\n---\n"
)
ANNOTATIONS = (
    ', annotations: {kubenetlab.dev/addresses: "10.244.1.77,fd00:10:244:1::77",'
    ' kubenetlab.dev/mac: "0a:11:22:33:44:55"}'
)


def sandbox(spec: str = "", meta: str = "", container: str = "") -> PodSandbox:
    """Return the facts about a pod on the first worker."""
    manifest = CONFLIST + pod("a", f", nodeName: worker{spec}", meta, container)
    cluster = settled(store(manifest))
    plan = plan_attachments(cluster, machine.decisions(cluster), PlanCache())
    return next(each.sandbox for each in plan.pods.values() if each.sandbox.name == "a")


def test_requested_addresses_have_the_prefix_length_of_the_nodes_range() -> None:
    """The plugin `static` requires one, and host-local accepts it."""
    facts = sandbox(meta=ANNOTATIONS)
    assert facts.ips == ("10.244.1.77/24", "fd00:10:244:1::77/64")
    assert facts.mac == "0a:11:22:33:44:55"
    assert facts.pod_cidrs == ("10.244.1.0/24", "fd00:10:244:1::/64")


def test_the_capability_dns_is_the_pods_resolv_conf() -> None:
    """As the kubelet passes it to the container runtime."""
    assert sandbox(spec=", dnsConfig: {searches: [a.example]}").dns == PodDns(
        ("10.96.0.10",),
        ("default.svc.cluster.local", "svc.cluster.local", "cluster.local", "a.example"),
        ("ndots:5",),
    )
    assert sandbox(spec=", dnsPolicy: Default").dns is None


def test_host_ports_are_port_mappings() -> None:
    """Ports without a host port are not passed."""
    ports = (
        ", ports: [{containerPort: 80, hostPort: 8080, hostIP: 172.18.0.3}, {containerPort: 81}]"
    )
    assert sandbox(container=ports).port_mappings == (PortMapping(8080, 80, "tcp", "172.18.0.3"),)

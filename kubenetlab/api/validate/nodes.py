"""Validation of nodes: taints, pod ranges, and annotations of kube-router."""

from collections.abc import Iterator
from ipaddress import ip_network

from kubenetlab.api.core import Node
from kubenetlab.api.plugins import kube_router
from kubenetlab.api.text.decode import Finding
from kubenetlab.api.validate.metadata import validate_labels
from kubenetlab.api.validate.syntax import key_fault, not_a_range


def validate_node(node: Node) -> Iterator[Finding]:
    """Validate a Node; yield every finding."""
    for annotation, problem in kube_router.node_faults(node.metadata.annotations):
        yield Finding(("metadata", "annotations", annotation), problem)
    pairs: set[tuple[str, str]] = set()
    for index, taint in enumerate(node.spec.taints):
        path = ("spec", "taints", index)
        if fault := key_fault(taint.key):
            yield Finding((*path, "key"), fault)
        yield from validate_labels({"value": taint.value}, path)
        if (taint.key, taint.effect) in pairs:
            yield Finding(path, "taints must be unique by key and effect pair")
        pairs.add((taint.key, taint.effect))
    if node.spec.pod_cidr and node.spec.pod_cidrs and node.spec.pod_cidr != node.spec.pod_cidrs[0]:
        yield Finding(
            ("spec", "podCIDRs", 0),
            f"expected the value of podCIDR ({node.spec.pod_cidr}), found {node.spec.pod_cidrs[0]}",
        )
    for index, text in enumerate(
        node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())
    ):
        try:
            ip_network(text)
        except ValueError as error:
            yield Finding(
                ("spec", "podCIDRs", index),
                not_a_range(text, "10.244.7.0/24"),
                hints=(str(error),),
            )

"""Diagnostics of addresses that two pods have, or a pod and a node."""

from __future__ import annotations

from collections.abc import Iterator

from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment
from kubenetlab.api.store import Cluster
from kubenetlab.diagnostics.model import DUPLICATE_ADDRESS, Diagnostic, Scope
from kubenetlab.diagnostics.templates import Templates


def check_duplicates(cluster: Cluster, templates: Templates) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each address of a pod that another pod or a node has.

    Such addresses come from the fault `ipam`, or from CNI plugins outside of the lab.
    """
    by_address: dict[str, list[Attachment]] = {}
    for attachment in cluster.all(Attachment):
        for address in attachment.addresses if not attachment.is_stale else ():
            by_address.setdefault(address, []).append(attachment)
    nodes = {address: node.name for node in cluster.all(Node) for address in node.addresses}
    for address, attachments in by_address.items():
        node = nodes.get(address)
        if len(attachments) == 1 and node is None:
            continue
        # The pod that got the address last is the one to look at.
        attachments.sort(key=lambda entry: bool(entry.duplicate_of))
        last, pods = attachments[-1], tuple(entry.full_name for entry in attachments)
        holders = " and ".join(pods)
        owners = f"pods {holders}" if len(pods) > 1 else f"pod {holders}"
        owners += f" and node {node}" if node is not None else ""
        is_fault = any(entry.duplicate_of for entry in attachments)
        yield Diagnostic(
            DUPLICATE_ADDRESS,
            "Pod",
            last.namespace,
            last.name,
            (),
            f"duplicate address {address}: {owners}; packets to it reach only one of them",
            ("kubenetlab heal" if is_fault else "delete one of the pods, and repair its IPAM",),
            Scope(into=pods, out_of=pods),
        )

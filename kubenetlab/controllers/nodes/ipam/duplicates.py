"""Addresses that the IPAM assigns to two pods, because of the fault `ipam`.

The second pod gets a new sandbox with the addresses of the first one. When the fault is healed, it
gets another sandbox with addresses of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import structs

from kubenetlab.api.faults import Fault
from kubenetlab.api.lab import Attachment
from kubenetlab.api.store import Change, Cluster


def owners(cluster: Cluster) -> Mapping[str, str]:
    """Return pod → pod whose addresses it gets, as `namespace/name`."""
    return cluster.index(Fault, _owners)


def _owners(faults: Iterable[Fault]) -> Mapping[str, str]:
    return {shared.pod: shared.owner for fault in faults for shared in fault.spec.shares}


def addresses(cluster: Cluster, owner: str) -> tuple[str, ...]:
    """Return the addresses of an owner; empty if it has none yet, or for an empty name."""
    attachment = _attachment(cluster, owner)
    return attachment.addresses if attachment is not None and not attachment.is_stale else ()


def duplicate_addresses(cluster: Cluster) -> Mapping[str, tuple[str, ...]]:
    """Return node → addresses of other pods that pods of the node have."""
    return cluster.index(Attachment, _duplicate_addresses)


def _duplicate_addresses(attachments: Iterable[Attachment]) -> Mapping[str, tuple[str, ...]]:
    by_node: dict[str, tuple[str, ...]] = {}
    for entry in attachments:
        if entry.duplicate_of and not entry.is_stale:
            by_node[entry.node] = (*by_node.get(entry.node, ()), *entry.addresses)
    return by_node


def corrections(cluster: Cluster, owners: Mapping[str, str]) -> Iterator[Change]:
    """Yield the attachments that do not agree with the faults.

    An attachment with other addresses than the fault says becomes stale: the pod gets a new
    sandbox. The attachment of an owner names the pod that has its addresses, too.
    """
    successors = {
        owner: pod
        for pod, owner in owners.items()
        if (attachment := _attachment(cluster, pod)) is not None
        and attachment.duplicate_of == owner
        and not attachment.is_stale
    }
    names = (*owners, *owners.values(), *cluster.index(Attachment, _names_with_duplicates))
    for name in dict.fromkeys(names):
        attachment = _attachment(cluster, name)
        if attachment is None or attachment.is_stale:
            continue
        owner = owners.get(name, "")
        shared = addresses(cluster, owner)
        successor = successors.get(name, "")
        if (attachment.duplicate_of and not owner) or (
            shared and (attachment.duplicate_of, attachment.addresses) != (owner, shared)
        ):
            yield structs.replace(attachment, is_stale=True)
        elif attachment.superseded_by != successor:
            yield structs.replace(attachment, superseded_by=successor)


def _names_with_duplicates(attachments: Iterable[Attachment]) -> tuple[str, ...]:
    return tuple(
        entry.full_name for entry in attachments if entry.duplicate_of or entry.superseded_by
    )


def _attachment(cluster: Cluster, name: str) -> Attachment | None:
    return cluster.get(Attachment, *name.split("/")) if name else None

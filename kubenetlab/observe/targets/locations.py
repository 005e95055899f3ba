"""Locations: pods, nodes, external hosts and the router of a lab, as `inspect` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

from kubenetlab.api.values.ip import version_of
from kubenetlab.errors import UsageError
from kubenetlab.observe.targets.grammar import pod_title

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import InspectedHost, InspectedPod, Inspection


class Location(Struct, frozen=True):
    """A pod, a node, an external host or the router, which run commands and send packets."""

    kind: Literal["pod", "node", "ext", "fabric"]
    namespace: str
    name: str
    sandbox: str
    netns_path: str
    """Path of its network namespace; empty if it does not run."""
    addresses: tuple[str, ...]
    """At most one per family, the primary family first."""
    is_host_network: bool = False
    """True for a pod with hostNetwork: its addresses are those of its node."""
    node: str = ""
    """Node on which a pod runs, or the node itself; empty for external hosts."""

    @property
    def title(self) -> str:
        return (
            pod_title(self.namespace, self.name)
            if self.kind == "pod"
            else f"{self.kind}:{self.name}"
        )

    @property
    def has_node_address(self) -> bool:
        """True if its packets have an address that nodes also give to packets of others."""
        return self.kind in ("node", "fabric") or self.is_host_network

    @property
    def address(self) -> str:
        """Address of the primary family; empty for a pod that has none yet."""
        return self.addresses[0] if self.addresses else ""

    @property
    def versions(self) -> Sequence[int]:
        """IP versions of the addresses, the primary one first."""
        return [version_of(address) for address in self.addresses]

    def of_version(self, version: int | None) -> Location:
        """Return the location with only its addresses of one IP version; None keeps all.

        Raises UsageError when no address is left.
        """
        matching = tuple(
            address for address in self.addresses if version in (None, version_of(address))
        )
        if not self.addresses:
            raise UsageError(f"{self.title} has no address yet; kubenetlab describe says why")
        if not matching:
            raise UsageError(
                f"{self.title} has no IPv{version} address; it has {', '.join(self.addresses)}"
            )
        return structs.replace(self, addresses=matching)


def places(seen: Inspection) -> list[Location]:
    """Return all running locations in the order pods, nodes, external hosts."""
    locations = [pod_location(pod) for pod in seen["pods"] if pod["pid"] and pod["addresses"]]
    locations += [node_or_host_location("node", entry) for entry in seen["nodes"] if entry["pid"]]
    return locations + [
        node_or_host_location("ext", entry) for entry in seen["external"] if entry["pid"]
    ]


def node_or_host_location(kind: Literal["node", "ext", "fabric"], entry: InspectedHost) -> Location:
    """Return the location of a node, an external host or the router from its entry in `inspect`."""
    node = entry["name"] if kind == "node" else ""
    return Location(
        kind,
        "",
        entry["name"],
        entry["sandbox"],
        entry["netns"] or "",
        tuple(entry["addresses"]),
        node=node,
    )


def pod_location(pod: InspectedPod) -> Location:
    """Return the location of a pod from its entry in `inspect`."""
    return Location(
        "pod",
        pod["namespace"],
        pod["name"],
        pod["sandbox"],
        pod["netns"] or "",
        tuple(pod["addresses"]),
        pod["host_network"],
        pod["node"],
    )

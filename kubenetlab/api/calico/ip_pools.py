"""IPPool: a range from which Calico assigns pod addresses, in blocks that belong to nodes.

Source: projectcalico/calico api/pkg/apis/projectcalico/v3/ippool.go (3.30).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta

from kubenetlab.api.calico.selectors import parse_selector
from kubenetlab.api.config import Network
from kubenetlab.api.meta import Labels, ObjectMeta, Record, Resource, Unmodelled
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.values import ip

OTHER_API_VERSIONS: Final = ("crd.projectcalico.org/v1",)
"""Versions of Calico's custom resources, whose fields are those of its API server's objects."""
BLOCK_SIZES: Final[Mapping[int, tuple[int, int, int]]] = {4: (26, 20, 32), 6: (122, 116, 128)}
"""IP version → default, smallest and largest prefix length of a block."""

EncapsulationMode = Literal["Never", "Always", "CrossSubnet"]
"""Destinations for which packets are encapsulated; CrossSubnet: nodes in other subnets."""


class IPPoolSpec(Record, frozen=True):
    """Desired state of an IPPool."""

    cidr: str
    """Range of the pool."""
    block_size: Annotated[int, Meta(ge=0, le=128, title="a prefix length")] = 0
    """Prefix length of the blocks. Defaults to 26 for IPv4 and 122 for IPv6."""
    ipip_mode: EncapsulationMode = "Never"
    """Use of IP-in-IP tunnels between nodes. Only for IPv4."""
    vxlan_mode: EncapsulationMode = "Never"
    """Use of VXLAN tunnels between nodes."""
    nat_outgoing: bool = False
    """If true, packets from pods of the pool to addresses outside of all pools are masqueraded."""
    disabled: bool = False
    """If true, no new address is assigned from the pool."""
    disable_bgp_export: bool = False
    """If true, BGP does not announce the blocks of the pool."""
    node_selector: str = "all()"
    """Selector of the nodes that use the pool."""
    namespace_selector: str = ""
    """Selector of the namespaces whose pods use the pool. All namespaces if empty."""
    assignment_mode: Literal["Automatic", "Manual"] = "Automatic"
    """Manual: only pods that request the pool by annotation use it."""
    allowed_uses: tuple[Literal["Workload", "Tunnel", "LoadBalancer"], ...] = (
        "Workload",
        "Tunnel",
    )
    """Kinds of addresses that are assigned from the pool."""

    @property
    def network(self) -> Network:
        return ip.network(self.cidr)

    @property
    def block_length(self) -> int:
        """Prefix length of the blocks."""
        return self.block_size or BLOCK_SIZES[self.network.version][0]

    @property
    def tunnels(self) -> tuple[str, ...]:
        """Kinds of tunnels that the pool uses: vxlan, ipip."""
        modes = (("vxlan", self.vxlan_mode), ("ipip", self.ipip_mode))
        return tuple(kind for kind, mode in modes if mode != "Never")


class IPPool(Resource, frozen=True):
    """Range from which Calico assigns pod addresses, in blocks that belong to nodes."""

    api_version = "projectcalico.org/v3"
    other_api_versions = OTHER_API_VERSIONS
    kind = "IPPool"
    plural = "ippools"
    is_namespaced = False

    metadata: ObjectMeta
    spec: IPPoolSpec
    status: Unmodelled = None

    @property
    def is_automatic(self) -> bool:
        """True if pods that request no pool may get addresses of this one."""
        spec = self.spec
        is_usable = not spec.disabled and "Workload" in spec.allowed_uses
        return is_usable and spec.assignment_mode == "Automatic"

    def serves_node(self, labels: Labels) -> bool:
        """Return True if a node with these labels uses the pool."""
        return parse_selector(self.spec.node_selector).matches(labels)

    def serves_namespace(self, labels: Labels) -> bool:
        """Return True if pods in a namespace with these labels use the pool."""
        selector = self.spec.namespace_selector
        return not selector or parse_selector(selector).matches(labels)


def validate_ip_pool(pool: IPPool) -> Iterator[Finding]:
    """Validate an IPPool on its own, as Calico does; yield every finding."""
    spec, path = pool.spec, ("spec",)
    for name in ("node_selector", "namespace_selector"):
        yield from _selector_findings(getattr(spec, name), (*path, _FIELD_NAMES[name]))
    try:
        network = spec.network
    except ValueError:
        yield Finding((*path, "cidr"), f"expected a range of addresses, found {found(spec.cidr)}")
        return
    _, smallest, largest = BLOCK_SIZES[network.version]
    smallest = max(smallest, network.prefixlen)
    if not smallest <= spec.block_length <= largest:
        yield Finding(
            (*path, "blockSize"),
            f"expected a prefix length from {smallest} to {largest} for {spec.cidr}, "
            f"found {spec.block_length}",
        )
    if spec.ipip_mode != "Never" and network.version == 6:
        yield Finding((*path, "ipipMode"), "only IPv4 has IP-in-IP tunnels")
    if "Never" not in (spec.ipip_mode, spec.vxlan_mode):
        yield Finding((*path, "vxlanMode"), "cannot be combined with ipipMode")


_FIELD_NAMES: Final = {
    "node_selector": "nodeSelector",
    "namespace_selector": "namespaceSelector",
}


def _selector_findings(selector: str, path: Path) -> Iterator[Finding]:
    if selector:
        try:
            parse_selector(selector)
        except ValueError as error:
            yield Finding(path, str(error))

"""BGPFilter: rules for the routes that Calico's nodes import from BGP peers and export to them.

Source: projectcalico/calico api/pkg/apis/projectcalico/v3/bgpfilter.go (3.32).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta, field

from kubenetlab.api.calico.as_numbers import ASNumber, with_as_numbers
from kubenetlab.api.calico.ip_pools import OTHER_API_VERSIONS
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.meta import ObjectMeta, Record, Resource, Unmodelled
from kubenetlab.api.text.decode import Finding, found
from kubenetlab.api.text.documents import Path
from kubenetlab.api.values import ip
from kubenetlab.api.values.communities import community_fault

Direction = Literal["import", "export"]
Operator = Literal["Equal", "NotEqual", "In", "NotIn"]
PrefixLength = Annotated[int, Meta(ge=0, le=128, title="a prefix length")]

_INTERFACE: Final = re.compile(r"[a-zA-Z0-9_.*?-]{1,15}", re.ASCII)
"""Pattern for the names of links."""
_MAX_OPERATIONS: Final = 10


class PrefixLengths(Record, frozen=True):
    """Prefix lengths of routes. Absent limits are those of the range."""

    min: PrefixLength | None = None
    """Smallest prefix length."""
    max: PrefixLength | None = None
    """Largest prefix length."""


class CommunityMatch(Record, frozen=True):
    """Community that a route must have."""

    values: Annotated[tuple[str, ...], Meta(min_length=1, max_length=1)]
    """One community."""


class AddCommunity(Record, frozen=True):
    """Addition of a community."""

    value: str
    """The community."""


class PrependASPath(Record, frozen=True):
    """Addition of AS numbers at the beginning of the path."""

    prefix: Annotated[tuple[ASNumber, ...], Meta(min_length=1, max_length=10)]
    """AS numbers, in the order of the resulting path."""


class FilterOperation(Record, frozen=True):
    """Modification of an accepted route: one of the fields."""

    add_community: AddCommunity | None = None
    """Addition of a community."""
    prepend_as_path: PrependASPath | None = field(default=None, name="prependASPath")
    """Addition of AS numbers to the path."""
    set_priority: Unmodelled = None

    @property
    def count(self) -> int:
        """Number of fields that are present."""
        fields = (self.add_community, self.prepend_as_path, self.set_priority)
        return sum(value is not None for value in fields)


class FilterRule(Record, frozen=True):
    """Conditions, all of which a route must meet, and the action for such a route."""

    action: Literal["Accept", "Reject"]
    """Accept or reject the route; further rules are not considered."""
    match_operator: Literal["", "Equal", "NotEqual", "In", "NotIn"] = ""
    """Relation of the route to `cidr`. Required with `cidr`."""
    cidr: str = ""
    """Range of addresses. All routes if empty."""
    prefix_length: PrefixLengths | None = None
    """Prefix lengths of the routes in `cidr`."""
    source: Literal["", "RemotePeers"] = ""
    """RemotePeers: only routes that were learned from BGP peers."""
    interface: str = ""
    """Pattern for the name of the link to the next hop, such as `*.calico`."""
    peer_type: Literal["", "eBGP", "iBGP"] = ""
    """Type of the peer: in another autonomous system, or in the same one."""
    communities: CommunityMatch | None = None
    """Community that the route must have."""
    as_path_prefix: tuple[ASNumber, ...] = field(default=(), name="asPathPrefix")
    """AS numbers with which the path must begin."""
    priority: Unmodelled = None
    operations: Annotated[tuple[FilterOperation, ...], Meta(max_length=_MAX_OPERATIONS)] = ()
    """Modifications of the accepted route, in order."""


class BGPFilterSpec(Record, frozen=True):
    """Desired state of a BGPFilter: rules by direction and IP version, in order."""

    export_v4: tuple[FilterRule, ...] = ()
    """Rules for IPv4 routes that are exported to a peer."""
    import_v4: tuple[FilterRule, ...] = ()
    """Rules for IPv4 routes that are imported from a peer."""
    export_v6: tuple[FilterRule, ...] = ()
    """Rules for IPv6 routes that are exported to a peer."""
    import_v6: tuple[FilterRule, ...] = ()
    """Rules for IPv6 routes that are imported from a peer."""


class BGPFilter(Resource, frozen=True):
    """Rules for the routes of sessions whose BGPPeer names this filter."""

    api_version = "projectcalico.org/v3"
    other_api_versions = OTHER_API_VERSIONS
    kind = "BGPFilter"
    plural = "bgpfilters"
    is_namespaced = False

    metadata: ObjectMeta
    spec: BGPFilterSpec = BGPFilterSpec()

    @classmethod
    def converted(cls, document: JsonMapping) -> JsonMapping:
        return with_as_numbers(document)

    def rules(self, direction: Direction, version: int) -> tuple[FilterRule, ...]:
        """Return the rules for a direction and an IP version."""
        spec = self.spec
        return {
            ("import", 4): spec.import_v4,
            ("import", 6): spec.import_v6,
            ("export", 4): spec.export_v4,
            ("export", 6): spec.export_v6,
        }[direction, version]


def validate_bgp_filter(filter_: BGPFilter) -> Iterator[Finding]:
    """Validate a BGPFilter on its own, as Calico does; yield every finding."""
    for direction, version in (("import", 4), ("import", 6), ("export", 4), ("export", 6)):
        rules = filter_.rules("import" if direction == "import" else "export", version)
        for index, rule in enumerate(rules):
            path = ("spec", f"{direction}V{version}", index)
            yield from _match_findings(rule, version, path)
            yield from _operation_findings(rule, path)


def _match_findings(rule: FilterRule, version: int, path: Path) -> Iterator[Finding]:
    if bool(rule.cidr) != bool(rule.match_operator):
        missing = "matchOperator" if rule.cidr else "cidr"
        yield Finding((*path, missing), "expected both cidr and matchOperator, or none of them")
    if rule.cidr and not _is_range(rule.cidr, version):
        yield Finding(
            (*path, "cidr"), f"expected a range of IPv{version}, found {found(rule.cidr)}"
        )
    if rule.prefix_length is not None and not rule.cidr:
        yield Finding((*path, "prefixLength"), "expected cidr, found nothing")
    for name in ("min", "max") if version == 4 and rule.prefix_length is not None else ():
        length = getattr(rule.prefix_length, name)
        if length is not None and length > 32:
            yield Finding(
                (*path, "prefixLength", name), f"expected a prefix length to 32, found {length}"
            )
    if rule.interface and not _INTERFACE.fullmatch(rule.interface):
        yield Finding(
            (*path, "interface"),
            f"expected the name of a link, with or without *, found {found(rule.interface)}",
        )
    if rule.communities is not None and (fault := community_fault(rule.communities.values[0])):
        yield Finding((*path, "communities", "values", 0), fault)


def _operation_findings(rule: FilterRule, path: Path) -> Iterator[Finding]:
    if rule.operations and rule.action != "Accept":
        yield Finding((*path, "operations"), "only rules with the action Accept have operations")
    for index, operation in enumerate(rule.operations):
        if operation.count != 1:
            yield Finding(
                (*path, "operations", index), f"expected one operation, found {operation.count}"
            )
        if operation.add_community and (fault := community_fault(operation.add_community.value)):
            yield Finding((*path, "operations", index, "addCommunity", "value"), fault)


def _is_range(text: str, version: int) -> bool:
    try:
        return ip.network(text).version == version
    except ValueError:
        return False

"""What all Kubernetes objects share: names, labels, owners, selectors.

The types of this package hold the fields that the lab understands, in snake_case; `Unmodelled` marks a field that Kubernetes
knows and the lab accepts without using it. Everything else in a document is a mistake and is reported.
Source: k8s.io/apimachinery pkg/apis/meta/v1/types.go (1.33).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar, Literal

from msgspec import Struct

Unmodelled = Any
"""The type of a field that Kubernetes knows and the lab does not use."""

Labels = Mapping[str, str]

_KEY = r"[A-Za-z0-9][-A-Za-z0-9_./]*"
_REQUIREMENT = re.compile(
    rf"\s*(?:(!)?\s*({_KEY})|({_KEY})\s*(==|=|!=)\s*([-A-Za-z0-9_.]*)|({_KEY})\s+(in|notin)\s*\(([^)]*)\))\s*"
)

_ACRONYMS = {
    "arp": "ARP",
    "ip": "IP",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
    "ips": "IPs",
    "cidr": "CIDR",
    "cidrs": "CIDRs",
    "id": "ID",
    "pid": "PID",
    "ipc": "IPC",
    "fqdn": "FQDN",
    "cni": "CNI",
    "api": "API",
    "dns": "DNS",
    "json6902": "JSON6902",
}


def kubernetes_name(name: str) -> str:
    """Kubernetes' spelling of one of our field names: `cluster_ips` → `clusterIPs`, `ip_families` → `ipFamilies`."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(_ACRONYMS.get(word, word.capitalize()) for word in rest)


class Record(
    Struct, frozen=True, rename=kubernetes_name, omit_defaults=True, forbid_unknown_fields=True
):
    """The base of all API types: an immutable value with Kubernetes' field names outside and ours inside."""


class OwnerReference(Record, frozen=True):
    """Who made an object: the object goes when its owner goes."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: Unmodelled = None


class ObjectMeta(Record, frozen=True):
    """Identity of an object; what is below `annotations` is filled in by the lab."""

    name: str = ""
    """Required in a document; the template of a workload's pods needs none."""
    namespace: str = ""
    """`default` when nothing is given."""
    labels: Labels = {}
    annotations: Labels = {}
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    owner_references: tuple[OwnerReference, ...] = ()
    generate_name: str = ""
    finalizers: Unmodelled = None
    managed_fields: Unmodelled = None
    self_link: Unmodelled = None


class LabelSelectorRequirement(Record, frozen=True):
    """One part of a selector: a key, an operator, and values for In and NotIn."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(Record, frozen=True):
    """Matches labels; all parts must hold, an empty selector matches everything."""

    match_labels: Labels = {}
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """True when all parts hold; NotIn and DoesNotExist hold for a missing key."""
        return matches_labels(self.match_labels, labels) and all(
            _holds(part, labels) for part in self.match_expressions
        )


def matches_labels(wanted: Labels, labels: Labels) -> bool:
    """True when `labels` has every pair of `wanted`."""
    return all(labels.get(key) == value for key, value in wanted.items())


def _holds(part: LabelSelectorRequirement, labels: Labels) -> bool:
    match part.operator:
        case "In":
            return part.key in labels and labels[part.key] in part.values
        case "NotIn":
            return labels.get(part.key) not in part.values
        case "Exists":
            return part.key in labels
        case "DoesNotExist":
            return part.key not in labels


def parse_selector(text: str) -> LabelSelector:
    """kubectl's notation: `app=web,tier!=db,env in (dev,test),!canary`. Raises ValueError for what is none.

    Source: k8s.io/apimachinery pkg/labels/selector.go.
    """
    parts: list[LabelSelectorRequirement] = []
    for part in re.findall(r"(?:[^,(]|\([^)]*\))+", text):
        match = _REQUIREMENT.fullmatch(part)
        if match is None:
            raise ValueError(
                f'"{part}" is no part of a label selector, such as app=web, tier!=db, env in (dev,test) or !canary'
            )
        negated, bare, key, equals, value, set_key, word, values = match.groups()
        if bare is not None:
            parts.append(LabelSelectorRequirement(bare, "DoesNotExist" if negated else "Exists"))
        elif key is not None:
            parts.append(
                LabelSelectorRequirement(key, "NotIn" if equals == "!=" else "In", (value,))
            )
        else:
            options = tuple(option.strip() for option in values.split(","))
            parts.append(
                LabelSelectorRequirement(set_key, "In" if word == "in" else "NotIn", options)
            )
    return LabelSelector(match_expressions=tuple(parts))


class Condition(Record, frozen=True):
    """One line of a status: something that is so, or not, since when and why."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None
    last_probe_time: Unmodelled = None
    last_heartbeat_time: Unmodelled = None
    last_update_time: Unmodelled = None
    observed_generation: Unmodelled = None


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with seconds, as Kubernetes writes `metav1.Time`."""
    return _timestamp(int(seconds))


@lru_cache(maxsize=16)
def _timestamp(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(stamp: str) -> float:
    """The reverse of `timestamp`; seconds since 1970."""
    return datetime.fromisoformat(stamp).timestamp()


class Resource(Record, frozen=True):
    """The base of all objects that the store keeps; `kind` and `api_version` belong to the class."""

    api_version: ClassVar[str]
    kind: ClassVar[str]
    plural: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]] = ()
    is_namespaced: ClassVar[bool] = True

    metadata: ObjectMeta

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def labels(self) -> Labels:
        return self.metadata.labels

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name), unique within a kind."""
        return self.metadata.namespace, self.metadata.name

    @property
    def full_name(self) -> str:
        """`namespace/name`, or the bare name of what has no namespace."""
        return (
            f"{self.metadata.namespace}/{self.metadata.name}"
            if self.metadata.namespace
            else self.metadata.name
        )

    @property
    def title(self) -> str:
        """`Kind namespace/name`, as messages name an object."""
        return f"{self.kind} {self.full_name}"

    @property
    def is_terminating(self) -> bool:
        return self.metadata.deletion_timestamp is not None

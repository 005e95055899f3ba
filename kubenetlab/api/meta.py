"""Parts that all Kubernetes objects share: metadata, labels, owners, selectors.

The types of this package hold the fields that the lab understands, in snake_case. `Unmodelled`
marks a field that Kubernetes defines and the lab accepts without using it. Every other field in a
document is reported as unknown.
Source: k8s.io/apimachinery pkg/apis/meta/v1/types.go (1.33).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar, Literal

from msgspec import Struct

from kubenetlab.api.json_types import JsonMapping

Unmodelled = Any
"""Type of a field that Kubernetes defines and the lab does not use."""

Labels = Mapping[str, str]

_KEY = r"[A-Za-z0-9][-A-Za-z0-9_./]*"
_REQUIREMENT = re.compile(
    rf"\s*(?:(!)?\s*({_KEY})"
    rf"|({_KEY})\s*(==|=|!=)\s*([-A-Za-z0-9_.]*)"
    rf"|({_KEY})\s+(in|notin)\s*\(([^)]*)\))\s*"
)
"""One requirement of a selector: existence, equality or set membership."""

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
    "fqdns": "FQDNs",
    "tls": "TLS",
    "cni": "CNI",
    "api": "API",
    "dns": "DNS",
    "json6902": "JSON6902",
    "bgp": "BGP",
}


def kubernetes_name(name: str) -> str:
    """Return a field name in Kubernetes' spelling: `cluster_ips` → `clusterIPs`."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(_ACRONYMS.get(word, word.capitalize()) for word in rest)


class Record(
    Struct, frozen=True, rename=kubernetes_name, omit_defaults=True, forbid_unknown_fields=True
):
    """Base of all API types: an immutable value, encoded with the field names of Kubernetes."""


class OwnerReference(Record, frozen=True):
    """Owner of an object. The object is deleted when its owner is."""

    api_version: str
    """API version of the owner."""
    kind: str
    """Kind of the owner."""
    name: str
    """Name of the owner."""
    uid: str
    """UID of the owner."""
    controller: bool = False
    """True if the owner is the controller that manages the object."""
    block_owner_deletion: Unmodelled = None


class ObjectMeta(Record, frozen=True):
    """Metadata of an object."""

    name: str = ""
    """Name of the object, unique in its namespace. Required, except in a pod template."""
    namespace: str = ""
    """Namespace of the object. Defaults to `default`."""
    labels: Labels = {}
    """Labels, by which selectors find the object."""
    annotations: Labels = {}
    """Annotations: unstructured data for tools and controllers."""
    uid: str = ""
    """Identifier that is unique in time. Set by the lab."""
    resource_version: str = ""
    """Version of the object, which changes with each update. Set by the lab."""
    generation: int = 0
    """Number of the desired state, incremented when the spec changes. Set by the lab."""
    creation_timestamp: str | None = None
    """Time at which the object was created. Set by the lab."""
    deletion_timestamp: str | None = None
    """Time at which the object will be deleted. Set by the lab when deletion is requested."""
    deletion_grace_period_seconds: int | None = None
    """Time allowed for a graceful end, in seconds. Set by the lab when deletion is requested."""
    owner_references: tuple[OwnerReference, ...] = ()
    """Owners of the object."""
    generate_name: str = ""
    """Prefix of a generated name. Set by controllers: a document needs a name."""
    finalizers: Unmodelled = None
    managed_fields: Unmodelled = None
    self_link: Unmodelled = None


class LabelSelectorRequirement(Record, frozen=True):
    """Requirement of a label selector: a key, an operator, and values for In and NotIn."""

    key: str
    """Key of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """Relation of the label to `values`."""
    values: tuple[str, ...] = ()
    """Values to compare with. Required for In and NotIn, not allowed otherwise."""

    def __str__(self) -> str:
        """Return the requirement as in kubectl, such as `tier in (a,b)`."""
        values = ",".join(sorted(self.values))
        match self.operator:
            case "In":
                return f"{self.key} in ({values})"
            case "NotIn":
                return f"{self.key} notin ({values})"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"


class LabelSelector(Record, frozen=True):
    """Label query. All requirements must be met. An empty selector matches all objects."""

    match_labels: Labels = {}
    """Labels that an object must have."""
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()
    """Requirements that the labels of an object must meet."""

    def __str__(self) -> str:
        """Return the selector as in kubectl, such as `app=web,tier in (a,b),!canary`.

        It is empty if the selector matches all objects.
        Source: k8s.io/apimachinery pkg/apis/meta/v1/helpers.go FormatLabelSelector.
        """
        labels = ((key, f"{key}={value}") for key, value in self.match_labels.items())
        expressions = ((entry.key, str(entry)) for entry in self.match_expressions)
        return ",".join(text for _, text in sorted([*labels, *expressions]))

    def matches(self, labels: Labels) -> bool:
        """Return True if the labels meet all requirements.

        A missing key meets NotIn and DoesNotExist.
        """
        return matches_labels(self.match_labels, labels) and all(
            _is_met(requirement, labels) for requirement in self.match_expressions
        )


def matches_labels(required: Labels, labels: Labels) -> bool:
    """Return True if `labels` has every key and value of `required`."""
    return all(labels.get(key) == value for key, value in required.items())


def _is_met(requirement: LabelSelectorRequirement, labels: Labels) -> bool:
    key, values = requirement.key, requirement.values
    match requirement.operator:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels


def parse_selector(text: str) -> LabelSelector:
    """Parse a selector as in kubectl: `app=web,tier!=db,env in (dev,test),!canary`.

    Raises ValueError for a part that is not a requirement.
    Source: k8s.io/apimachinery pkg/labels/selector.go.
    """
    requirements: list[LabelSelectorRequirement] = []
    for part in re.findall(r"(?:[^,(]|\([^)]*\))+", text):
        match = _REQUIREMENT.fullmatch(part)
        if match is None:
            raise ValueError(
                f'"{part}" is not part of a label selector; examples: app=web, tier!=db, '
                "env in (dev,test), !canary"
            )
        negation, existing_key, key, equals, value, set_key, set_operator, values = match.groups()
        if existing_key is not None:
            requirement = LabelSelectorRequirement(
                existing_key, "DoesNotExist" if negation else "Exists"
            )
        elif key is not None:
            requirement = LabelSelectorRequirement(
                key, "NotIn" if equals == "!=" else "In", (value,)
            )
        else:
            requirement = LabelSelectorRequirement(
                set_key,
                "In" if set_operator == "in" else "NotIn",
                tuple(option.strip() for option in values.split(",")),
            )
        requirements.append(requirement)
    return LabelSelector(match_expressions=tuple(requirements))


class Condition(Record, frozen=True):
    """Aspect of the observed state of an object."""

    type: str
    """Type of the condition, such as Ready."""
    status: Literal["True", "False", "Unknown"]
    """Status of the condition."""
    reason: str = ""
    """Short machine-readable reason for the status."""
    message: str = ""
    """Human-readable description of the status."""
    last_transition_time: str | None = None
    """Time at which the status changed."""
    last_probe_time: Unmodelled = None
    last_heartbeat_time: Unmodelled = None
    last_update_time: Unmodelled = None
    observed_generation: Unmodelled = None


def timestamp(seconds: float) -> str:
    """Return a time in RFC 3339 notation in UTC, as Kubernetes writes `metav1.Time`.

    seconds: seconds since 1970; fractions are dropped.
    """
    return _timestamp(int(seconds))


@lru_cache(maxsize=16)
def _timestamp(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(stamp: str) -> float:
    """Return the seconds since 1970 of a time in RFC 3339 notation."""
    return datetime.fromisoformat(stamp).timestamp()


class Resource(Record, frozen=True):
    """Base of all objects in the store. `kind` and `api_version` belong to the class."""

    api_version: ClassVar[str]
    other_api_versions: ClassVar[tuple[str, ...]] = ()
    """Versions with the same fields that manifests may have instead, each of another API group."""
    kind: ClassVar[str]
    manifest_kind: ClassVar[str] = ""
    """Kind in documents, if another API group has a kind of that name; else empty."""
    plural: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]] = ()
    words_in_group: ClassVar[tuple[str, ...]] = ()
    """Names that mean the kind only together with the API group."""
    is_namespaced: ClassVar[bool] = True

    metadata: ObjectMeta
    """Metadata of the object."""

    @classmethod
    def document_kind(cls) -> str:
        """Return the kind in documents."""
        return cls.manifest_kind or cls.kind

    @classmethod
    def converted(cls, document: JsonMapping) -> JsonMapping:
        """Return a document with this type's spelling of values that have several."""
        return document

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
        """(namespace, name), unique in a kind."""
        return self.metadata.namespace, self.metadata.name

    @property
    def full_name(self) -> str:
        """`namespace/name`, or the name alone for an object without a namespace."""
        return (
            f"{self.metadata.namespace}/{self.metadata.name}"
            if self.metadata.namespace
            else self.metadata.name
        )

    @property
    def title(self) -> str:
        """`Kind namespace/name`, as in messages."""
        return f"{self.kind} {self.full_name}"

    @property
    def is_terminating(self) -> bool:
        return self.metadata.deletion_timestamp is not None

"""Grammar of targets, by which commands and truth tables address pods, Services, nodes and hosts.

    [ns/]pod[:port]    deploy:[ns/]name (sts: ds: job: rs: rc:)    each:Kind/[ns/]name
    each:Namespace/name    node:name    ext:name    fabric:router
    svc:[ns/]name    lb:[ns/]name    nodeport:node/[ns/]name
    ADDRESS (ip:ADDRESS)    dns:NAME, or a name with a dot    http://NAME[:PORT]/PATH
    kubectl's KIND/NAME: pod/web-0, svc/web, deployment/web, node/worker
    NAME alone: a pod, a Service, a workload or a DNS name; `meanings.resolve_name` decides which

A port may follow every form, with its protocol: `svc:web:53/udp`, `[::1]:80`. A target that a
command prints, such as `svc:default/web:80/TCP IPv6`, is parsed to the same target.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct, structs

from kubenetlab.errors import UsageError, did_you_mean
from kubenetlab.names import socket_address

Kind = Literal[
    "word",
    "pod",
    "deploy",
    "sts",
    "ds",
    "job",
    "rs",
    "rc",
    "each",
    "node",
    "ext",
    "fabric",
    "svc",
    "lb",
    "nodeport",
    "ip",
    "name",
]
Protocol = Literal["TCP", "UDP", "SCTP"]
Scheme = Literal["http", "https"]

DEFAULT_NAMESPACE: Final = "default"
EVERY_NODE: Final = "*"
MAX_PORT: Final = 65535
DEFAULT_PORTS: Final[Mapping[Scheme, int]] = {"http": 80, "https": 443}
"""Scheme of a URL → its default port."""

WORKLOADS: Final[Mapping[Kind, str]] = {
    "deploy": "Deployment",
    "sts": "StatefulSet",
    "ds": "DaemonSet",
    "job": "Job",
    "rs": "ReplicaSet",
    "rc": "ReplicationController",
}
"""Prefix → kind of workload; the target is one of its pods."""

NAMESPACE: Final = "Namespace"
"""Kind in `each:Namespace/name`, which is every pod of a namespace."""
_NAMESPACE_WORDS: Final = ("namespace", "namespaces", "ns")

PREFIX_OF: Final[Mapping[str, Kind]] = {kind: prefix for prefix, kind in WORKLOADS.items()}
"""Kind of workload → its prefix."""

_PREFIXES: Final[Mapping[str, Kind]] = {
    "pod": "pod",
    **{kind: kind for kind in WORKLOADS},
    "each": "each",
    "node": "node",
    "ext": "ext",
    "fabric": "fabric",
    "svc": "svc",
    "lb": "lb",
    "nodeport": "nodeport",
    "ip": "ip",
    "dns": "name",
}
"""Prefix before a colon → kind of target."""

KUBECTL_KINDS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("pod", "pods", "po"), "pod"),
    **dict.fromkeys(("svc", "service", "services"), "svc"),
    **dict.fromkeys(("node", "nodes", "no"), "node"),
    **{
        word: short
        for short, kind in WORKLOADS.items()
        for word in (
            short,
            kind.lower(),
            f"{kind.lower()}s",
            f"{kind.lower()}.{'batch' if kind == 'Job' else 'apps'}",
        )
    },
}
"""Kinds that kubectl accepts before a slash."""

_PORT = re.compile(r"(?P<rest>.+):(?P<port>\d+)(?:/(?P<protocol>tcp|udp|sctp))?", re.IGNORECASE)
_PORT_NAME = re.compile(r"[a-z0-9-]{1,15}")
"""Name of a port; a target has the number."""
_FAMILY = re.compile(r"(?P<rest>\S+) (?P<family>IPv[46])")
_FORMS = (
    "[ns/]pod, deploy: (sts:, ds:, job:, rs:, rc:), each:, node:, ext:, fabric:, svc:, lb:, "
    "nodeport:, an address, a DNS name or http://NAME/PATH"
)


class Target(Struct, frozen=True):
    """Parts of a target.

    `str()` returns a text that parses to an equal target (for `word`, with the same namespace).
    """

    kind: Kind
    namespace: str
    """Namespace; empty for kinds without one, and for a bare name without option -n."""
    name: str
    """Name; `Kind/name` for `each`, where the kind may be `Namespace`; `node/service` for
    `nodeport`, the address for `ip`."""
    port: int | None = None
    protocol: Protocol | None = None
    """Protocol; only given together with a port."""
    scheme: Scheme | Literal[""] = ""
    path: str = ""
    """Path and query of a URL; empty without a scheme."""
    family: Literal["IPv4", "IPv6"] | None = None

    @property
    def is_bare(self) -> bool:
        """True without port, scheme, path and family."""
        return self == structs.replace(
            self, port=None, protocol=None, scheme="", path="", family=None
        )

    @property
    def bare(self) -> Target:
        """The target without port, scheme, path and family."""
        return structs.replace(self, port=None, protocol=None, scheme="", path="", family=None)

    def __str__(self) -> str:
        if self.scheme:
            return f"{self.scheme}://{_host(self, self.scheme)}{self.path}"
        return with_port(self._without_port, self.port, self.protocol or "") + self.suffix

    @property
    def suffix(self) -> str:
        """The family after a space, as at the end of the target's text; empty without one."""
        return f" {self.family}" if self.family else ""

    @property
    def _without_port(self) -> str:
        match self.kind:
            case "word":
                return self.name
            case "pod":
                return pod_title(self.namespace, self.name)
            case "ip":
                return self.name
            case "name":
                return self.name if "." in self.name else f"dns:{self.name}"
            case "each" | "nodeport":
                first, _, name = self.name.partition("/")
                if not self.namespace:
                    return f"{self.kind}:{self.name}"
                return f"{self.kind}:{first}/{self.namespace}/{name}"
        return (
            f"{self.kind}:{self.namespace}/{self.name}"
            if self.namespace
            else f"{self.kind}:{self.name}"
        )


def pod_title(namespace: str, name: str) -> str:
    """Return `default/web-0`; `pod:svc/web-0` where kubectl would read the namespace as a kind."""
    return f"{'pod:' if namespace in KUBECTL_KINDS else ''}{namespace}/{name}"


def with_port(title: str, port: int | None, protocol: str = "") -> str:
    """Append a port and its protocol to a title: `svc:default/web:80/TCP`, `[fd00::1]:80`."""
    if port is None:
        return title
    suffix = f"/{protocol}" if protocol else ""
    return socket_address(title, port) + suffix if _is_address(title) else f"{title}:{port}{suffix}"


def parse(text: str, namespace: str | None = None) -> Target:
    """Return the target that `text` describes.

    namespace: option -n, the namespace of names without one.
    Raises UsageError for a text that does not match any form.
    """
    if "://" in text:
        return _url(text)
    family, rest = None, text
    if match := _FAMILY.fullmatch(text):
        rest, family = match["rest"], match["family"]
    port = protocol = None
    if (
        not _is_address(rest.removeprefix("ip:"))
        and (match := _PORT.fullmatch(rest))
        and match["rest"] not in _PREFIXES
    ):
        rest, port, protocol = (
            match["rest"],
            _port_number(text, match["port"]),
            (match["protocol"] or "").upper() or None,
        )
    return structs.replace(
        _parse_without_port(text, rest, namespace), port=port, protocol=protocol, family=family
    )


def _parse_without_port(text: str, rest: str, namespace: str | None) -> Target:
    """Parse a target without its port. `text` is the whole target, for messages."""
    address = rest.removeprefix("ip:")
    if _is_address(address):
        return Target("ip", "", str(ip_address(_unbracketed(address))))
    prefix, colon, name = rest.partition(":")
    if not colon:
        return _without_prefix(text, rest, namespace)
    if prefix == "ip":
        raise UsageError(f"{text}: expected an IP address behind ip:")
    if prefix not in _PREFIXES or ":" in name:
        if prefix in _PREFIXES:
            last = rest.rpartition(":")[2]
            raise UsageError(
                f'{text}: expected a port from 1 to {MAX_PORT} after the last colon, found "{last}"'
            )
        guess = did_you_mean(prefix, _PREFIXES)
        if _PORT_NAME.fullmatch(name) and not guess:
            others = "" if "/" in prefix else f"; or a target of the form {_FORMS}"
            raise UsageError(
                f"{text}: expected a port from 1 to {MAX_PORT} after the last colon, "
                f'found "{name}"{others}'
            )
        raise UsageError(f"{text}: expected {_FORMS}{guess}")
    return _prefixed(text, _PREFIXES[prefix], name, namespace or DEFAULT_NAMESPACE)


def _without_prefix(text: str, rest: str, namespace: str | None) -> Target:
    first, slash, name = rest.partition("/")
    if not slash:
        return Target("name" if "." in rest else "word", namespace or "", _named(text, rest))
    if first in KUBECTL_KINDS:
        return _prefixed(text, KUBECTL_KINDS[first], name, namespace or DEFAULT_NAMESPACE)
    return Target("pod", _named(text, first), _named(text, name))


def _prefixed(text: str, kind: Kind, name: str, default: str) -> Target:
    """Parse the part after a prefix. `default` is the namespace of a name without one."""
    if kind in ("node", "ext", "fabric", "name"):
        return (
            Target("ip", "", str(ip_address(_unbracketed(name))))
            if _is_address(name)
            else Target(kind, "", _named(text, name))
        )
    if kind in ("each", "nodeport"):
        first, slash, rest = name.partition("/")
        namespace, _, last = rest.rpartition("/")
        if not (first and slash and last):
            form = (
                "each:KIND/[NAMESPACE/]NAME or each:Namespace/NAME"
                if kind == "each"
                else "nodeport:NODE/[NAMESPACE/]SERVICE, with * for every node"
            )
            raise UsageError(f"{text}: expected {form}")
        if kind == "each" and first.lower() in _NAMESPACE_WORDS:
            return Target(kind, "", f"{NAMESPACE}/{_named(text, rest)}")
        return Target(
            kind,
            namespace or default,
            f"{_workload(text, first) if kind == 'each' else first}/{_named(text, last)}",
        )
    namespace, slash, last = name.partition("/")
    return Target(
        kind, _named(text, namespace) if slash else default, _named(text, last if slash else name)
    )


def _workload(text: str, word: str) -> str:
    """Return the kind in `each:WORD/…`, spelled as in manifests."""
    kind = WORKLOADS.get(KUBECTL_KINDS.get(word.lower(), "pod"))
    if kind is None:
        known = WORKLOADS.values()
        raise UsageError(
            f"{text}: {word} is not a kind of workload{did_you_mean(word, known)}; "
            f"known: {', '.join(known)}"
        )
    return kind


def _named(text: str, name: str) -> str:
    if not name or "/" in name or any(character.isspace() for character in name):
        raise UsageError(f'{text}: expected {_FORMS}; "{name}" is not a name')
    return name


def _url(text: str) -> Target:
    """Parse `http://web:8080/hostname?x=1`. A fragment is dropped, since clients never send it."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise UsageError(
            f"{text}: expected http://NAME[:PORT]/PATH, with a port from 1 to {MAX_PORT}"
        ) from None
    scheme = next((known for known in DEFAULT_PORTS if known == parts.scheme), None)
    if scheme is None:
        raise UsageError(
            f'{text}: the scheme "{parts.scheme}" is not supported; expected http://NAME[:PORT]/PATH'
        )
    if not parts.hostname or port == 0:
        raise UsageError(f"{text}: expected http://NAME[:PORT]/PATH")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"{text}: user and password are not supported; expected http://NAME[:PORT]/PATH"
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    is_address = _is_address(parts.hostname)
    host = str(ip_address(parts.hostname)) if is_address else _named(text, parts.hostname)
    return Target(
        "ip" if is_address else "name",
        "",
        host,
        port or DEFAULT_PORTS[scheme],
        "TCP",
        scheme,
        path,
    )


def _host(target: Target, scheme: Scheme) -> str:
    """Return host and port of a URL, without the scheme's default port."""
    if target.port != DEFAULT_PORTS[scheme] and target.port is not None:
        return socket_address(target.name, target.port)
    return f"[{target.name}]" if ":" in target.name else target.name


def _port_number(text: str, digits: str) -> int:
    if len(digits) > len(str(MAX_PORT)) or not 1 <= int(digits) <= MAX_PORT:
        raise UsageError(f"{text}: expected a port from 1 to {MAX_PORT}, found {digits}")
    return int(digits)


def _is_address(text: str) -> bool:
    try:
        ip_address(_unbracketed(text))
    except ValueError:
        return False
    return True


def _unbracketed(text: str) -> str:
    """Return an IPv6 address without its brackets."""
    return text[1:-1] if text.startswith("[") and text.endswith("]") and ":" in text else text

"""Annotations of kube-router: which addresses of Services nodes announce, and BGP of nodes.

Source: cloudnativelabs/kube-router docs/bgp.md and pkg/controllers/routing/
network_routes_controller.go, bgp_peers.go (2.5).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address
from itertools import zip_longest
from typing import Final, Literal

from msgspec import Struct

from kubenetlab.api.meta import Labels
from kubenetlab.api.text.decode import found
from kubenetlab.api.values import ip
from kubenetlab.api.values.communities import standard_community

AddressKind = Literal["clusterip", "externalip", "loadbalancerip"]
"""Kind of a Service's address, as in the annotations."""

PREFIX: Final = "kube-router.io/"
"""Prefix of all annotations of kube-router."""
ADVERTISE_ANNOTATIONS: Final[dict[str, AddressKind]] = {
    "kube-router.io/service.advertise.clusterip": "clusterip",
    "kube-router.io/service.advertise.externalip": "externalip",
    "kube-router.io/service.advertise.loadbalancerip": "loadbalancerip",
}
"""Annotation of a Service: "true" or "false", whether nodes announce its addresses of a kind."""
LOCAL_ANNOTATION: Final = "kube-router.io/service.local"
"""Annotation of a Service: only nodes with ready endpoints announce its addresses."""

AS_NUMBER: Final = f"{PREFIX}node.asn"
"""Annotation of a node: its autonomous system, if there is no full mesh."""
REFLECTOR: Final = f"{PREFIX}rr.server"
"""Annotation of a node that reflects routes: id of its cluster."""
CLIENT: Final = f"{PREFIX}rr.client"
"""Annotation of a node that has sessions with reflectors only: id of its cluster."""
PEERS: Final = f"{PREFIX}peers"
"""Annotation of a node: routers with which it has sessions, as a list in YAML."""
PEER_ADDRESSES: Final = f"{PREFIX}peer.ips"
PEER_AS_NUMBERS: Final = f"{PREFIX}peer.asns"
PEER_PORTS: Final = f"{PREFIX}peer.ports"
PEER_PASSWORDS: Final = f"{PREFIX}peer.passwords"
PEER_SOURCES: Final = f"{PREFIX}peer.localips"
PREPENDED_AS: Final = f"{PREFIX}path-prepend.as"
PREPENDED_COUNT: Final = f"{PREFIX}path-prepend.repeat-n"
COMMUNITIES: Final = f"{PREFIX}node.bgp.communities"
"""Annotation of a node: communities of the routes that it announces to routers."""
REFUSED: Final = f"{PREFIX}node.bgp.customimportreject"
"""Annotation of a node: ranges to which it accepts no routes."""

_MAX_PREPENDED: Final = 255
_MAX_AS_NUMBER: Final = 0xFFFFFFFE


class RouterPeer(Struct, frozen=True):
    """A router with which a node has a session."""

    address: str
    as_number: int
    port: int = 0
    """TCP port; 0 for BGP's."""
    source: str = ""
    """Own address of the session; empty for that of the node."""


class NodeSettings(Struct, frozen=True):
    """BGP of a node, from its annotations."""

    as_number: int = 0
    """Autonomous system; 0 without the annotation."""
    is_reflector: bool = False
    is_client: bool = False
    """True if it has sessions with reflectors only."""
    cluster_id: str = ""
    """Id of the cluster of a reflector, in the form of an IPv4 address."""
    peers: tuple[RouterPeer, ...] = ()
    prepended: tuple[int, ...] = ()
    """AS numbers at the beginning of the paths that it announces to routers."""
    communities: tuple[str, ...] = ()
    """Communities of the routes that it announces to routers, such as 65000:120."""
    refused: tuple[str, ...] = ()
    """Ranges to which it accepts no routes."""


def node_settings(annotations: Labels) -> NodeSettings:
    """Return the settings of a node. Its annotations are valid: the API refuses others."""
    if not any(key.startswith(PREFIX) for key in annotations):
        return NodeSettings()
    is_reflector = REFLECTOR in annotations
    cluster_id = annotations.get(REFLECTOR, "")
    count = int(annotations.get(PREPENDED_COUNT, 0))
    return NodeSettings(
        int(annotations.get(AS_NUMBER, 0)),
        is_reflector,
        not is_reflector and CLIENT in annotations,
        str(IPv4Address(int(cluster_id) if cluster_id.isdigit() else cluster_id or 0))
        if is_reflector
        else "",
        tuple(peer for peer, _ in _peers(annotations)),
        (int(annotations[PREPENDED_AS]),) * count if count else (),
        tuple(map(standard_community, split(annotations.get(COMMUNITIES, "")))),
        tuple(split(annotations.get(REFUSED, ""))),
    )


def peer_passwords(annotations: Labels) -> tuple[bytes, ...]:
    """Return the passwords of the sessions of `node_settings`, in order; empty ones for none."""
    return tuple(base64.b64decode(password) for _, password in _peers(annotations))


def split(text: str) -> list[str]:
    """Return the entries of a list with commas, without empty ones."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _peers(annotations: Labels) -> Iterator[tuple[RouterPeer, str]]:
    """Yield (router, password in base64) of the annotations; `peers` replaces the others."""
    if PEERS in annotations:
        for entry in _yaml_entries(annotations[PEERS]):
            yield (
                RouterPeer(
                    str(entry["remoteip"]),
                    int(str(entry["remoteasn"])),
                    int(str(entry.get("port", 0))),
                    str(entry.get("localip", "")),
                ),
                str(entry.get("password", "")),
            )
        return
    if PEER_ADDRESSES not in annotations:
        return
    columns = [
        [part.strip() for part in annotations[key].split(",")] if key in annotations else []
        for key in (PEER_ADDRESSES, PEER_AS_NUMBERS, PEER_PORTS, PEER_PASSWORDS, PEER_SOURCES)
    ]
    for address, number, port, password, source in zip_longest(*columns, fillvalue=""):
        yield RouterPeer(address, int(number), int(port or 0), source), password


def _yaml_entries(text: str) -> list[Mapping[str, object]]:
    """Return the routers in the annotation `peers`. Raises ValueError if there are none."""
    import yaml

    try:
        entries = yaml.load(text, yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    if not isinstance(entries, list) or not all(isinstance(each, Mapping) for each in entries):
        raise ValueError("expected a list of routers with remoteip and remoteasn")
    return entries


def node_faults(annotations: Labels) -> Iterator[tuple[str, str]]:
    """Yield (annotation, fault) for the annotations of a node that kube-router cannot use."""
    for key, fault_of in _FAULTS.items():
        if key in annotations and (fault := fault_of(annotations[key])):
            yield key, fault
    for key, other in (
        (PREPENDED_AS, PREPENDED_COUNT),
        (PREPENDED_COUNT, PREPENDED_AS),
        (PEER_ADDRESSES, PEER_AS_NUMBERS),
        (PEER_AS_NUMBERS, PEER_ADDRESSES),
    ):
        if key in annotations and other not in annotations:
            yield key, f"expected the annotation {other}, too"
    if PEER_ADDRESSES not in annotations:
        return
    count = annotations[PEER_ADDRESSES].count(",") + 1
    for key in (PEER_AS_NUMBERS, PEER_PORTS, PEER_PASSWORDS, PEER_SOURCES):
        number = annotations[key].count(",") + 1 if key in annotations else count
        if number != count:
            yield key, f"expected {count} entries, as in {PEER_ADDRESSES}, found {number}"


def _number_fault(least: int, most: int, noun: str) -> Callable[[str], str | None]:
    def fault(text: str) -> str | None:
        is_valid = text.isascii() and text.isdigit() and least <= int(text[:11]) <= most
        return None if is_valid else f"expected {noun} from {least} to {most}, found {found(text)}"

    return fault


_as_fault = _number_fault(1, _MAX_AS_NUMBER, "an AS number")
_port_fault = _number_fault(1, 0xFFFF, "a port")


def _cluster_fault(text: str) -> str | None:
    if text.isascii() and text.isdigit() and int(text[:11]) <= 0xFFFFFFFF:
        return None
    if ip.is_address(text) and ip.version_of(text) == 4:
        return None
    return f"expected a number of 32 bits or an IPv4 address, found {found(text)}"


def _address_fault(text: str) -> str | None:
    return None if ip.is_address(text) else f"expected an address, found {found(text)}"


def _password_fault(text: str) -> str | None:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return "expected passwords in base64"
    is_usable = value.isascii() and value.decode("ascii").isprintable() and b'"' not in value
    return None if is_usable else "expected passwords of printable ASCII without quotation marks"


def _community_fault(text: str) -> str | None:
    try:
        standard_community(text)
    except ValueError:
        return (
            "expected communities such as 65000:120, a number of 32 bits or no-export, "
            f"found {found(text)}"
        )
    return None


def _range_fault(text: str) -> str | None:
    try:
        ip.network(text)
    except ValueError:
        return f"expected ranges of addresses, found {found(text)}"
    return None


def _peers_fault(text: str) -> str | None:
    try:
        entries = _yaml_entries(text)
    except ValueError as error:
        return str(error)
    for entry in entries:
        for name in ("remoteip", "remoteasn"):
            if name not in entry:
                return f"expected {name} of each router"
        for name, value in entry.items():
            if name not in _PEER_FIELDS:
                return f"expected {', '.join(_PEER_FIELDS)}, found {found(name)}"
            if fault := _PEER_FIELDS[name](str(value)):
                return f"{name}: {fault}"
    return None


_PEER_FIELDS: Final[Mapping[str, Callable[[str], str | None]]] = {
    "remoteip": _address_fault,
    "remoteasn": _as_fault,
    "port": _port_fault,
    "localip": _address_fault,
    "password": _password_fault,
}
"""Field of a router in the annotation `peers` → function that returns the fault of a value."""


def _each(
    fault_of: Callable[[str], str | None], *, is_required: bool = False
) -> Callable[[str], str | None]:
    """Return a function that returns the first fault of the entries of a list.

    is_required: True if no entry may be empty.
    """

    def fault(text: str) -> str | None:
        entries = [part.strip() for part in text.split(",")] if is_required else split(text)
        return next(filter(None, map(fault_of, entries)), None)

    return fault


_FAULTS: Final[Mapping[str, Callable[[str], str | None]]] = {
    AS_NUMBER: _as_fault,
    REFLECTOR: _cluster_fault,
    CLIENT: _cluster_fault,
    PEERS: _peers_fault,
    PEER_ADDRESSES: _each(_address_fault, is_required=True),
    PEER_AS_NUMBERS: _each(_as_fault, is_required=True),
    PEER_PORTS: _each(_port_fault),
    PEER_PASSWORDS: _each(_password_fault),
    PEER_SOURCES: _each(_address_fault),
    PREPENDED_AS: _as_fault,
    PREPENDED_COUNT: _number_fault(1, _MAX_PREPENDED, "a number"),
    COMMUNITIES: _each(_community_fault),
    REFUSED: _each(_range_fault),
}
"""Annotation of a node that has an effect → function that returns the fault of a value."""
NODE_ANNOTATIONS: Final = tuple(_FAULTS)
"""Annotations of nodes that have an effect."""

"""Keys, port and peers of WireGuard links, by generic netlink.

Source: include/uapi/linux/wireguard.h, drivers/net/wireguard/netlink.c (6.12).
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

from msgspec import structs

from kubenetlab.hoststate.ip import packed_prefix
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.netlink.message_classes import Attribute, MessageClass, nest
from kubenetlab.hoststate.netlink.protocols import WIREGUARD
from kubenetlab.hoststate.netlink.wire import NLM_F_DUMP, Links
from kubenetlab.hoststate.object import Key, LinkedObject, Object, ShellName, UnreportedMessages
from kubenetlab.hoststate.secret import Secret

DEFAULT_PORT: Final = 51820
_MESSAGE = MessageClass("pyroute2.netlink.generic.wireguard", "wgmsg")
_GET_DEVICE, _SET_DEVICE, _VERSION = 0, 1, 1
_REMOVE_PEER, _REPLACE_ALLOWED_IPS = 1, 2
"""WGPEER_F_REMOVE_ME and WGPEER_F_REPLACE_ALLOWEDIPS."""


class WireguardDevice(LinkedObject, frozen=True):
    """The key and the UDP port of a WireGuard link."""

    protocol = WIREGUARD
    rank = 72

    public_key: str
    private_key: Secret
    port: int = DEFAULT_PORT
    mark: int = 0
    """Firewall mark of the datagrams; 0: none."""

    @property
    def key(self) -> Key:
        return ("WireguardDevice", self.link)

    def __str__(self) -> str:
        mark = f" fwmark {self.mark:#x}" if self.mark else ""
        return f"wireguard {self.link} key {fingerprint(self.public_key)} port {self.port}{mark}"

    def create(self, links: Links) -> bytes:
        return _set_device(
            self.link,
            ("WGDEVICE_A_PRIVATE_KEY", self.private_key.base64),
            ("WGDEVICE_A_LISTEN_PORT", self.port),
            ("WGDEVICE_A_FWMARK", self.mark),
        )

    change = create

    def delete(self, links: Links) -> bytes:
        """Return no request: the settings disappear with the link."""
        return b""

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        """Yield commands of wireguard-tools. They make a key of their own: none is in a script."""
        netns, file = shell_name(self.netns), _key_file(self.public_key)
        mark = f" fwmark {self.mark:#x}" if self.mark else ""
        settings = f"private-key {file} listen-port {self.port}{mark}"
        yield _key_made(file)
        yield f"ip netns exec {netns} wg set {self.link} {settings}"


class WireguardPeer(LinkedObject, frozen=True):
    """A peer of a WireGuard link, and the addresses behind it."""

    protocol = WIREGUARD
    rank = 73

    public_key: str
    address: str
    """Address to which the datagrams are sent."""
    port: int
    allowed_ips: tuple[str, ...]
    """Networks that are sent to the peer, and accepted from it, in order of their text."""
    keepalive_s: int = 0
    """Interval of packets that keep state of firewalls on the way, in seconds; 0: none."""

    @property
    def key(self) -> Key:
        return ("WireguardPeer", self.link, self.public_key)

    def __str__(self) -> str:
        networks = ", ".join(self.allowed_ips)
        keepalive = f" keepalive {self.keepalive_s} s" if self.keepalive_s else ""
        return (
            f"wireguard {self.link} peer {self._endpoint} "
            f"key {fingerprint(self.public_key)} allowed ips {networks}{keepalive}"
        )

    def create(self, links: Links) -> bytes:
        return self._request(
            _REPLACE_ALLOWED_IPS,
            ("WGPEER_A_ENDPOINT", {"addr": self.address, "port": self.port}),
            ("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", self.keepalive_s),
            ("WGPEER_A_ALLOWEDIPS", [_allowed_ip(network) for network in self.allowed_ips]),
        )

    change = create

    def delete(self, links: Links) -> bytes:
        return self._request(_REMOVE_PEER)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        netns, file = shell_name(self.netns), _key_file(self.public_key)
        networks = ",".join(self.allowed_ips)
        keepalive = f" persistent-keepalive {self.keepalive_s}" if self.keepalive_s else ""
        yield _key_made(file)
        yield (
            f'ip netns exec {netns} wg set {self.link} peer "$(wg pubkey <{file})" '
            f"endpoint {self._endpoint} allowed-ips {networks}{keepalive}"
        )

    @property
    def _endpoint(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"

    def _request(self, flags: int, *settings: Attribute) -> bytes:
        peer = nest(("WGPEER_A_PUBLIC_KEY", self.public_key), ("WGPEER_A_FLAGS", flags), *settings)
        return _set_device(self.link, ("WGDEVICE_A_PEERS", [peer]))


def fingerprint(public_key: str) -> str:
    """Return eight hexadecimal digits by which descriptions tell public keys apart."""
    return f"{crc32(public_key.encode()):08x}"


def _key_file(public_key: str) -> str:
    """Return the shell expression for the file in which a script keeps a private key.

    The node and its peers refer to it by the public key that the lab has for the node.
    """
    return f'"$FILES/wireguard-{fingerprint(public_key)}"'


def _key_made(file: str) -> str:
    """Return the command that makes a key unless a former command has."""
    return f'[ -s {file} ] || (umask 077 && mkdir -p "$FILES" && wg genkey >{file})'


def _set_device(link: str, *settings: Attribute) -> bytes:
    fields = {"cmd": _SET_DEVICE, "version": _VERSION}
    return _MESSAGE.encode(0, 0, fields, [("WGDEVICE_A_IFNAME", link), *settings])


def _allowed_ip(network: str) -> dict[str, list[Attribute]]:
    family, address, length = packed_prefix(network)
    return nest(
        ("WGALLOWEDIP_A_FAMILY", family),
        ("WGALLOWEDIP_A_IPADDR", address),
        ("WGALLOWEDIP_A_CIDR_MASK", length),
    )


def _dumps(netns: str, links: Sequence[ObservedLink]) -> Iterator[bytes]:
    """Yield a request for each WireGuard link."""
    fields = {"cmd": _GET_DEVICE, "version": _VERSION}
    for link in links:
        if link.kind == "wireguard":
            yield _MESSAGE.encode(0, NLM_F_DUMP, fields, [("WGDEVICE_A_IFNAME", link.name)])


def decode_wireguard(
    netns: str, bodies: Sequence[memoryview], names: Mapping[int, str]
) -> Iterable[tuple[Object, bool]]:
    """Decode the messages about one link; yield its device and its peers.

    The peers of a link may need several messages, of which the first is about the device, too. A
    peer with many networks may be continued in the next message, without its endpoint. The second
    values are False: the kernel does not record who made a peer.
    body: genlmsghdr (4 bytes) | attributes.
    """
    peers: dict[str, WireguardPeer] = {}
    messages = [_MESSAGE.decode(body) for body in bodies]
    devices = (_decode_device(netns, message) for message in messages)
    yield from ((device, False) for device in devices if device is not None)
    for link, entry in _peer_entries(messages):
        peer = _decode_peer(netns, link, entry)
        before = peers.get(peer.public_key)
        if before is not None:
            networks = sorted((*before.allowed_ips, *peer.allowed_ips))
            peer = structs.replace(before, allowed_ips=tuple(networks))
        peers[peer.public_key] = peer
    yield from ((peer, False) for peer in peers.values())


def decoded_peers(bodies: Iterable[memoryview]) -> Iterator[tuple[str, str, Any]]:
    """Yield (link, public key, attributes) of each peer in the messages about one link.

    A peer with many networks may be in several messages, of which the first has its session.
    """
    for link, entry in _peer_entries(map(_MESSAGE.decode, bodies)):
        yield link, _text(entry.get_attr("WGPEER_A_PUBLIC_KEY")), entry


def _peer_entries(messages: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yield each peer with its link, of which only the first message has the name."""
    link = ""
    for message in messages:
        link = message.get_attr("WGDEVICE_A_IFNAME") or link
        for entry in message.get_attr("WGDEVICE_A_PEERS") or ():
            yield link, entry


def _decode_device(netns: str, message: Any) -> WireguardDevice | None:
    """Return the device, or None for a message that continues the list of its peers."""
    port = message.get_attr("WGDEVICE_A_LISTEN_PORT")
    if port is None:
        return None
    return WireguardDevice(
        netns,
        message.get_attr("WGDEVICE_A_IFNAME"),
        _text(message.get_attr("WGDEVICE_A_PUBLIC_KEY")),
        Secret(b64decode(_text(message.get_attr("WGDEVICE_A_PRIVATE_KEY")))),
        port,
        message.get_attr("WGDEVICE_A_FWMARK") or 0,
    )


def _decode_peer(netns: str, link: str, entry: Any) -> WireguardPeer:
    endpoint = entry.get_attr("WGPEER_A_ENDPOINT") or {"addr": "", "port": 0}
    networks = (allowed["addr"] for allowed in entry.get_attr("WGPEER_A_ALLOWEDIPS") or ())
    return WireguardPeer(
        netns,
        link,
        _text(entry.get_attr("WGPEER_A_PUBLIC_KEY")),
        endpoint["addr"],
        endpoint["port"],
        tuple(sorted(networks)),
        entry.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
    )


def _text(value: bytes | None) -> str:
    """Return a key in base64, as pyroute2 decodes it; empty if there is none."""
    return (value or b"").decode()


WIREGUARD_MESSAGES: Final = UnreportedMessages(WIREGUARD, _dumps, decode_wireguard)

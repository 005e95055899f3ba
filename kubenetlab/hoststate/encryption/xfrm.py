"""XFRM: transformations of packets, of which ESP in transport mode is modelled.

A policy selects packets that leave and names the state that encrypts them; a state has the key.
A state for the packets of the other end decrypts what comes in. A policy for packets that come in
drops those that were not encrypted. pyroute2 has no such messages.

Source: include/uapi/linux/xfrm.h, net/xfrm/xfrm_user.c (6.12); iproute2 ip/ipxfrm.c; RFC 4303,
RFC 4106.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Final

from kubenetlab.hoststate.ip import AF_INET, address_text, packed, packed_prefix
from kubenetlab.hoststate.links.messages import ObservedLink
from kubenetlab.hoststate.netlink.protocols import XFRM
from kubenetlab.hoststate.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Links,
    as_number,
    as_string,
    attribute,
    attributes,
    message,
    number,
)
from kubenetlab.hoststate.object import (
    Key,
    NetlinkObject,
    Object,
    ShellName,
    UnreportedDumps,
    UnreportedMessages,
)
from kubenetlab.hoststate.secret import Secret
from kubenetlab.names import NODES

ALGORITHM: Final = "rfc4106(gcm(aes))"
"""AES-GCM for ESP. The key is the cipher's key and four bytes of salt."""
OVERHEAD_BYTES: Final = 37
"""Largest number of bytes that ESP adds to a packet: SPI and sequence number (8 bytes), IV (8),
padding (0 to 3), its length and the next header (2), and the tag (16)."""
OUR_REQID: Final = 0x6B6E6C
"""Number by which states and policies of the lab refer to each other, and are recognized."""
XFRM_MSG_NEWSA, XFRM_MSG_DELSA, XFRM_MSG_GETSA = 16, 17, 18
XFRM_MSG_NEWPOLICY, XFRM_MSG_DELPOLICY, XFRM_MSG_GETPOLICY = 19, 20, 21
_XFRMA_TMPL, _XFRMA_ALG_AEAD, _XFRMA_MARK, _XFRMA_OUTPUT_MARK = 5, 18, 21, 29
_IPPROTO_ESP, _MODE_TRANSPORT, _POLICY_IN, _POLICY_OUT = 50, 0, 0, 1
_PROTOCOL_NAMES: Final = {6: "tcp", 17: "udp"}
_TAG_BITS: Final = 128
_NO_LIMIT: Final = 2**64 - 1
_ANY_ALGORITHM: Final = 0xFFFFFFFF

_SELECTOR = struct.Struct("=16s16s2s2s2s2sHBBBxxxiI")
"""destination, source, destination port and mask, source port and mask, family, destination
length, source length, protocol, interface index, user"""
_ID = struct.Struct("=16s4sBxxx")
"""xfrm_id: destination, SPI, protocol"""
_LIMITS = struct.Struct("=8Q")
"""xfrm_lifetime_cfg"""
_COUNTERS = bytes(32)
"""xfrm_lifetime_cur, which the kernel fills in"""
_STATISTICS = bytes(12)
_STATE_END = struct.Struct("=IIHBBB7x")
"""seq, reqid, family, mode, replay window, flags"""
_STATE_ID = struct.Struct("=16s4sHBx")
"""xfrm_usersa_id: destination, SPI, family, protocol"""
_POLICY_END = struct.Struct("=IIBBBBxxxx")
"""priority, index, direction, action, flags, share"""
_POLICY_ID = struct.Struct("=IBxxx")
"""xfrm_userpolicy_id after the selector: index, direction"""
_TEMPLATE = struct.Struct("=16s4sBxxxHxx16sIBBBxIII")
"""xfrm_user_tmpl: xfrm_id, family, source, reqid, mode, share, optional, algorithms"""
_AEAD = struct.Struct("=64sII")
"""xfrm_algo_aead without the key: name, bits of the key, bits of the tag"""
_MARK = struct.Struct("=II")
_STATE_SOURCE = _SELECTOR.size + _ID.size
STATE_LIFETIME: Final = _STATE_SOURCE + 16 + _LIMITS.size
"""Offset of xfrm_lifetime_cur in a message about a state."""
_STATE_TAIL = STATE_LIFETIME + len(_COUNTERS) + len(_STATISTICS)
_STATE_BYTES = _STATE_TAIL + _STATE_END.size
_POLICY_TAIL = _SELECTOR.size + _LIMITS.size + len(_COUNTERS)
_POLICY_BYTES = _POLICY_TAIL + _POLICY_END.size
_UNLIMITED = _LIMITS.pack(*[_NO_LIMIT] * 4, 0, 0, 0, 0)
"""No limit of bytes and packets; a time of 0 is none either."""


class _XfrmObject(NetlinkObject, frozen=True):
    """A state or a policy. The kernel changes neither: another one takes its place."""

    protocol = XFRM
    creation: ClassVar[int]
    """Type of the message that creates it."""

    def create(self, links: Links) -> bytes:
        return message(self.creation, NLM_F_CREATE | NLM_F_EXCL, self._body())

    change = create

    def can_become(self, desired: Object) -> bool:
        return False

    def _body(self) -> bytes:
        raise NotImplementedError


class XfrmState(_XfrmObject, frozen=True):
    """A key for the ESP packets from one address to another, in transport mode."""

    creation = XFRM_MSG_NEWSA
    rank = 72

    source: str
    destination: str
    spi: int
    """Security parameter index, which each encrypted packet contains."""
    secret: Secret
    """Key of the cipher (16, 24 or 32 bytes) and salt (4 bytes)."""
    output_mark: int = 0
    """Firewall mark of packets that have been encrypted; 0: theirs before."""
    replay_window: int = 32
    """Number of packets within which a repeated one is detected; 0: none is detected.

    A sender that makes the same state again counts from 1, so that a key that both ends derive
    needs 0 (RFC 4303, section 3.3.3, on manual keys).
    """

    @property
    def key(self) -> Key:
        return ("XfrmState", self.destination, str(self.spi))

    def __str__(self) -> str:
        mark = f" output-mark {self.output_mark:#x}" if self.output_mark else ""
        return f"xfrm state {self._ends} spi {self.spi:#010x} {ALGORITHM}{mark}"

    def delete(self, links: Links) -> bytes:
        family, destination = packed(self.destination)
        spi = struct.pack("!I", self.spi)
        return message(
            XFRM_MSG_DELSA, 0, _STATE_ID.pack(_padded(destination), spi, family, _IPPROTO_ESP)
        )

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        """Yield commands of iproute2. They make a key of their own: none is in a script."""
        target = self.destination.replace(":", "-")
        file = f'"$FILES/xfrm-{target}-{self.spi:08x}"'
        key = f"od -An -vtx1 -N{len(self.secret.reveal)} /dev/urandom | tr -d ' \\n'"
        yield f'[ -s {file} ] || (umask 077 && mkdir -p "$FILES" && {key} >{file})'
        mark = f" output-mark {self.output_mark:#x}" if self.output_mark else ""
        settings = (
            f"proto esp spi {self.spi:#x} reqid {OUR_REQID} mode transport "
            f"replay-window {self.replay_window}"
        )
        algorithm = f"aead '{ALGORITHM}' \"0x$(cat {file})\" {_TAG_BITS}"
        yield (
            f"ip -n {shell_name(self.netns)} xfrm state add {self._ends} "
            f"{settings} {algorithm}{mark}"
        )

    @property
    def _ends(self) -> str:
        return f"src {self.source} dst {self.destination}"

    def _body(self) -> bytes:
        (family, source), (_, destination) = packed(self.source), packed(self.destination)
        key = self.secret.reveal
        algorithm = _AEAD.pack(ALGORITHM.encode(), 8 * len(key), _TAG_BITS) + key
        body = (
            _SELECTOR.pack(*[b""] * 6, family, 0, 0, 0, 0, 0)
            + _ID.pack(_padded(destination), struct.pack("!I", self.spi), _IPPROTO_ESP)
            + _padded(source)
            + _UNLIMITED
            + _COUNTERS
            + _STATISTICS
            + _STATE_END.pack(0, OUR_REQID, family, _MODE_TRANSPORT, self.replay_window, 0)
            + attribute(_XFRMA_ALG_AEAD, algorithm)
        )
        return body + (number(_XFRMA_OUTPUT_MARK, self.output_mark) if self.output_mark else b"")


class XfrmPolicy(_XfrmObject, frozen=True):
    """A rule that packets from one address to another are encrypted, by ESP in transport mode."""

    creation = XFRM_MSG_NEWPOLICY
    rank = 73

    source: str
    """Network of the packets' sources, such as 172.18.0.2/32."""
    destination: str
    spi: int
    """Security parameter index of the state that encrypts them; 0: any state of the lab."""
    mark: int = 0
    """Firewall mark of the packets; 0: any."""
    ip_protocol: int = 0
    """Number of the packets' protocol, 17 for UDP; 0: any."""
    port: int = 0
    """Destination port of the packets; 0: any."""
    is_inbound: bool = False
    """True for packets that come in: they are dropped unless they were encrypted."""

    @property
    def key(self) -> Key:
        numbers = (self.mark, self.ip_protocol, self.port)
        return ("XfrmPolicy", self._direction, self.source, self.destination, *map(str, numbers))

    def __str__(self) -> str:
        spi = f" spi {self.spi:#010x}" if self.spi else " esp"
        return f"xfrm policy {self._selector} dir {self._direction}{spi}"

    def delete(self, links: Links) -> bytes:
        body = self._encoded_selector() + _POLICY_ID.pack(0, self._number) + self._encoded_mark()
        return message(XFRM_MSG_DELPOLICY, 0, body)

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        source, destination = self.source.partition("/")[0], self.destination.partition("/")[0]
        ends = f"src {source} dst {destination} " if self.spi else ""
        spi = f"spi {self.spi:#x} " if self.spi else ""
        yield (
            f"ip -n {shell_name(self.netns)} xfrm policy add {self._selector} "
            f"dir {self._direction} tmpl {ends}proto esp {spi}reqid {OUR_REQID} mode transport"
        )

    @property
    def _direction(self) -> str:
        return "in" if self.is_inbound else "out"

    @property
    def _number(self) -> int:
        """Number of the direction in messages."""
        return _POLICY_IN if self.is_inbound else _POLICY_OUT

    @property
    def _selector(self) -> str:
        """Arguments of `ip xfrm policy` that select packets."""
        parts = ["src", self.source, "dst", self.destination]
        protocol = _PROTOCOL_NAMES.get(self.ip_protocol, str(self.ip_protocol))
        parts += ["proto", protocol] if self.ip_protocol else []
        parts += ["dport", str(self.port)] if self.port else []
        parts += ["mark", f"{self.mark:#x}", "mask", f"{self.mark:#x}"] if self.mark else []
        return " ".join(parts)

    def _encoded_selector(self) -> bytes:
        family, source, source_length = packed_prefix(self.source)
        _, destination, length = packed_prefix(self.destination)
        port = struct.pack("!HH", self.port, 0xFFFF if self.port else 0)
        return _SELECTOR.pack(
            _padded(destination),
            _padded(source),
            port[:2],
            port[2:],
            b"",
            b"",
            family,
            length,
            source_length,
            self.ip_protocol,
            0,
            0,
        )

    def _encoded_mark(self) -> bytes:
        return attribute(_XFRMA_MARK, _MARK.pack(self.mark, self.mark)) if self.mark else b""

    def _body(self) -> bytes:
        family, source, _ = packed_prefix(self.source)
        _, destination, _ = packed_prefix(self.destination)
        if not self.spi:  # a state between any two addresses
            source = destination = b""
        template = _TEMPLATE.pack(
            _padded(destination),
            struct.pack("!I", self.spi),
            _IPPROTO_ESP,
            family,
            _padded(source),
            OUR_REQID,
            _MODE_TRANSPORT,
            0,
            0,
            *[_ANY_ALGORITHM] * 3,
        )
        return (
            self._encoded_selector()
            + _UNLIMITED
            + _COUNTERS
            + _POLICY_END.pack(0, 0, self._number, 0, 0, 0)
            + attribute(_XFRMA_TMPL, template)
            + self._encoded_mark()
        )


def _padded(address: bytes) -> bytes:
    """Return an address as xfrm_address_t, which has 16 bytes."""
    return address.ljust(16, b"\0")


def _address(data: bytes, family: int) -> str:
    return address_text(memoryview(data[:4] if family == AF_INET else data))


def decode_states(
    netns: str, bodies: Sequence[memoryview], names: Mapping[int, str]
) -> Iterable[tuple[Object, bool]]:
    """Yield the states for ESP, each with True if it belongs to the lab.

    body: xfrm_usersa_info (224 bytes) | attributes.
    """
    for body in bodies:
        destination, spi, protocol = _ID.unpack_from(body, _SELECTOR.size)
        source = bytes(body[_STATE_SOURCE : _STATE_SOURCE + 16])
        _, reqid, family, mode, replay_window, _ = _STATE_END.unpack_from(body, _STATE_TAIL)
        attrs = attributes(body[_STATE_BYTES:])
        if (protocol, mode) != (_IPPROTO_ESP, _MODE_TRANSPORT) or _XFRMA_ALG_AEAD not in attrs:
            continue
        algorithm = attrs[_XFRMA_ALG_AEAD]
        name, bits, _ = _AEAD.unpack_from(algorithm)
        if as_string(memoryview(name)) != ALGORITHM:
            continue
        key = bytes(algorithm[_AEAD.size : _AEAD.size + bits // 8])
        mark = attrs.get(_XFRMA_OUTPUT_MARK)
        state = XfrmState(
            netns,
            _address(source, family),
            _address(destination, family),
            int.from_bytes(spi, "big"),
            Secret(key),
            as_number(mark) if mark is not None else 0,
            replay_window,
        )
        yield state, reqid == OUR_REQID


def decode_policies(
    netns: str, bodies: Sequence[memoryview], names: Mapping[int, str]
) -> Iterable[tuple[Object, bool]]:
    """Yield the policies for packets that leave or come in, each with True if it is the lab's.

    body: xfrm_userpolicy_info (168 bytes) | attributes.
    """
    for body in bodies:
        destination, source, port, _, _, _, family, length, source_length, protocol, _, _ = (
            _SELECTOR.unpack_from(body)
        )
        _, _, direction, *_ = _POLICY_END.unpack_from(body, _POLICY_TAIL)
        attrs = attributes(body[_POLICY_BYTES:])
        template = attrs.get(_XFRMA_TMPL, memoryview(b""))
        if direction not in (_POLICY_IN, _POLICY_OUT) or len(template) != _TEMPLATE.size:
            continue
        _, spi, _, _, _, reqid, *_ = _TEMPLATE.unpack_from(template)
        mark = _MARK.unpack_from(attrs[_XFRMA_MARK])[0] if _XFRMA_MARK in attrs else 0
        policy = XfrmPolicy(
            netns,
            f"{_address(source, family)}/{source_length}",
            f"{_address(destination, family)}/{length}",
            int.from_bytes(spi, "big"),
            mark,
            protocol,
            int.from_bytes(port, "big"),
            direction == _POLICY_IN,
        )
        yield policy, reqid == OUR_REQID


def _on_nodes(type_: int) -> UnreportedDumps:
    """Return the function that lists the states or policies of a node; others have none."""

    def dumps(netns: str, links: Sequence[ObservedLink]) -> Iterable[bytes]:
        return [message(type_, NLM_F_DUMP, b"")] if netns.startswith(NODES) else []

    return dumps


XFRM_STATE_MESSAGES: Final = UnreportedMessages(XFRM, _on_nodes(XFRM_MSG_GETSA), decode_states)
XFRM_POLICY_MESSAGES: Final = UnreportedMessages(
    XFRM, _on_nodes(XFRM_MSG_GETPOLICY), decode_policies
)

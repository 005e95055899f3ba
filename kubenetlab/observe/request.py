"""Requests of probes: port, protocol and path of a target, combined with options or a table's row.

Both may give the same value; they must not contradict each other.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from kubenetlab.errors import UsageError
from kubenetlab.observe.targets.grammar import DEFAULT_PORTS, Target

HTTP_ERROR: Final = 400
"""Lowest HTTP status that reports an error."""
Transport = Literal["ICMP", "TCP", "UDP", "SCTP"]


class ProbeSpecification(Struct, frozen=True):
    """Protocol, port and path of a probe."""

    protocol: Transport = "ICMP"
    port: int | None = None
    http: str | None = None
    """Path and query of a GET; None for a connection or a datagram."""

    @property
    def http_port(self) -> int:
        """The port, or HTTP's own for a GET without a port; 0 for a ping."""
        return self.port or (DEFAULT_PORTS["http"] if self.http is not None else 0)


class RequestOptions(Struct, frozen=True):
    """Values given beside a target, each with the option or field that messages name."""

    protocol: Transport | None = None
    port: int | None = None
    path: str | None = None
    protocol_option: str = "protocol"
    port_option: str = "port"
    path_option: str = "--http"


def make_request(target: Target, options: RequestOptions) -> ProbeSpecification:
    """Combine a target with options.

    A port without a protocol is TCP; a target without a port is pinged.
    Raises UsageError for a contradiction, and for https, which the built-in client does not
    support.
    """
    if target.scheme == "https":
        plain = f"http://{str(target).partition('://')[2]}"
        raise UsageError(
            f"{target}: https is not supported. Use {plain}, or run a program: "
            f"kubenetlab exec SRC -- curl -k {target}"
        )
    if target.scheme and options.path not in (None, target.path):
        raise UsageError(
            f"{target} has the path {target.path}, but {options.path_option} is {options.path}; "
            "give one of them"
        )
    if target.port is not None and options.port not in (None, target.port):
        raise UsageError(
            f"{target} has the port {target.port}, but {options.port_option} is {options.port}; "
            "give one of them"
        )
    if target.protocol is not None and options.protocol not in (None, target.protocol):
        reason = (
            "HTTP uses TCP" if target.scheme else f"{target} has the protocol {target.protocol}"
        )
        raise UsageError(
            f"{reason}, but {options.protocol_option} is {options.protocol}; give one of them"
        )
    path = target.path if target.scheme else options.path
    if path is not None and target.protocol not in (None, "TCP"):
        raise UsageError(
            f"{options.path_option} {path}: HTTP uses TCP, "
            f"but {target} has the protocol {target.protocol}"
        )
    if path is not None and options.protocol not in (None, "TCP"):
        raise UsageError(
            f"{options.path_option} {path}: HTTP uses TCP, "
            f"but {options.protocol_option} is {options.protocol}"
        )
    port = target.port or options.port
    protocol = (
        options.protocol
        or target.protocol
        or ("TCP" if path is not None or port is not None else "ICMP")
    )
    return ProbeSpecification(protocol, port, path)


def ip_version(target: Target, option: int | None) -> int | None:
    """Return the IP version that options -4 and -6 or the target require.

    Raises UsageError where they differ.
    """
    own = {"IPv4": 4, "IPv6": 6, None: None}[target.family]
    if option is not None and own not in (None, option):
        raise UsageError(f"-{option} and {target.family} of {target} are mutually exclusive")
    return option or own

"""Options of the IPAM plugin host-local in CNI modes that have them: gateway and range of pods.

Each node has a range of its own, so the options are numbers of addresses and not addresses. A
number counts from the beginning of the range, whose network address is 0; a negative number counts
from the end, where -1 is the last address.
Source: containernetworking/plugins plugins/ipam/host-local/backend/allocator/range.go (v1.9); the
numbers are those of Terraform's cidrhost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from kubenetlab.api.config import Network, Networking
from kubenetlab.api.meta import kubernetes_name

Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, title="the number of an address")]

_NAMED: Final = {"first": 1, "last": -2}
"""Name of a gateway → its number."""


class HostLocal(Struct, frozen=True, rename=kubernetes_name, forbid_unknown_fields=True):
    """Gateway of a node's pods, and the part of the node's range from which pods get addresses."""

    range_start: Number = 1
    """Number of the first address for pods."""
    range_end: Number = -2
    """Number of the last address for pods."""
    gateway: Number | Literal["first", "last"] = "first"
    """Number of the gateway, which no pod gets; first and last are the ends of the range without
    the network address and the broadcast address."""

    @property
    def gateway_number(self) -> int:
        """Number of the gateway."""
        return _NAMED[self.gateway] if isinstance(self.gateway, str) else self.gateway

    def first(self, network: Network) -> int:
        """Return the number of the first address for pods, counted from the beginning."""
        return _from_start(self.range_start, network)

    def last(self, network: Network) -> int:
        """Return the number of the last address for pods, counted from the beginning."""
        return _from_start(self.range_end, network)

    def ends(self, network: Network) -> tuple[int, int]:
        """Return the numbers of the first and of the last address for pods, gateway excepted."""
        first, last, gateway = self.first(network), self.last(network), self.gateway_of(network)
        return first + (first == gateway), last - (last == gateway)

    def gateway_of(self, network: Network) -> int:
        """Return the number of the gateway, counted from the beginning."""
        return _from_start(self.gateway_number, network)

    def faults(self, network: Network) -> Iterator[tuple[str, str]]:
        """Yield (option, mistake) for each mistake of the options on a node with this range."""
        size = network.num_addresses
        numbers = {
            "rangeStart": self.range_start,
            "rangeEnd": self.range_end,
            "gateway": self.gateway_number,
        }
        outside = {
            option: number
            for option, number in numbers.items()
            if not 0 < _from_start(number, network) < size - 1
        }
        for option, number in outside.items():
            yield (
                option,
                f"expected a number from 1 to {size - 2}, or from -{size - 1} to -2, in a range of "
                f"/{network.prefixlen}, found {number}",
            )
        if outside:
            return
        first, last = self.first(network), self.last(network)
        if last < first:
            yield (
                "rangeEnd",
                f"expected at least rangeStart, which is {first} in a range of "
                f"/{network.prefixlen}, found {last}",
            )
        elif first == last == self.gateway_of(network):
            yield "rangeEnd", f"{first} is the gateway: no address is left for pods"


def _from_start(number: int, network: Network) -> int:
    return number if number >= 0 else network.num_addresses + number


def host_local_options(networking: Networking) -> HostLocal:
    """Return the option `ipam` of the CNI mode; the defaults for a mode without it."""
    _, options = networking.cni_mode
    try:
        return msgspec.convert(options.get("ipam", {}), HostLocal)
    except msgspec.ValidationError:
        return HostLocal()  # the option of another plugin, or a mistake that its mode reports

"""Links of a namespace, and the BPF programs of one set at their tc hooks.

Source: tc-bpf(8); rtnetlink(7).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping
from typing import Final

from kubenetlab.hoststate.netlink import tc
from kubenetlab.hoststate.netlink.wire import (
    NLM_F_DUMP,
    RTM_GETLINK,
    as_string,
    attributes,
    message,
)
from kubenetlab.hoststate.rules.bpf_programs import ProgramSet
from kubenetlab.kernel.netlink.rtnetlink import RouteSocket

LINK_INDEX: Final = struct.Struct("=i")
"""Index of a link, as in messages and in maps."""
_LINK_HEADER, _IFLA_IFNAME = 16, 3


class TcLinks:
    """Links of the network namespace in which this object was created."""

    def __init__(self, programs: ProgramSet) -> None:
        self._set = programs
        self.priorities = {place.priority for place in programs.places.values()}
        self._route = RouteSocket()

    def links(self) -> dict[str, int]:
        """Return the index of each link by its name."""
        request = message(RTM_GETLINK, NLM_F_DUMP, bytes(_LINK_HEADER))
        bodies = list(self._route.dump(request))
        return {link_name(body): LINK_INDEX.unpack_from(body, 4)[0] for body in bodies}

    def filters(self, index: int) -> Iterator[tc.Filter]:
        """Yield the programs of a link that have the priorities of this set."""
        for side in SIDES:
            try:
                bodies = list(self._route.dump(tc.list_filters(index, side)))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENODEV):
                    raise
                continue
            filters = (tc.decode_filter(body) for body in bodies)
            yield from (
                filter_
                for filter_ in filters
                if filter_ is not None and filter_.priority in self.priorities
            )

    def attach(self, links: Mapping[str, int], programs: Mapping[str, int]) -> dict[str, str]:
        """Attach programs to links; return the kernel's first refusal for each link with any.

        links: index of each link by its name.
        programs: descriptors of the loaded programs.
        """
        places = self._set.places
        requests: list[bytes] = []
        owners: list[tuple[str, bool]] = []
        """Per request: the link, and whether the request adds its qdisc."""
        for link, index in links.items():
            names = self._set.programs_on(link)
            requests.append(tc.add_qdisc(index))
            requests += [
                tc.set_filter(index, places[name].side, programs[name], name, places[name].priority)
                for name in names
            ]
            owners += [(link, True), *[(link, False)] * len(names)]
        refusals: dict[str, str] = {}
        for refusal in self._route.batch(requests) if requests else ():
            link, is_qdisc = owners[refusal.request]
            if not (is_qdisc and refusal.errno == errno.EEXIST):
                refusals.setdefault(link, str(refusal))
        return refusals

    def detach(self, index: int) -> None:
        """Remove the programs from a link; a link that does not exist is no error."""
        places = dict.fromkeys(self._set.places.values())
        self._route.batch([tc.delete_filter(index, place.side, place.priority) for place in places])

    def close(self) -> None:
        self._route.close()


SIDES: Final[tuple[tc.Side, ...]] = ("ingress", "egress")


def link_name(body: memoryview) -> str:
    """Return the name in a message about a link."""
    return as_string(attributes(body[_LINK_HEADER:])[_IFLA_IFNAME])

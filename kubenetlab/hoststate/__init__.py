"""Kernel objects as values, one module for each kind.

Desired and observed state have the same types, so that they can be compared. The names in `__all__`
are provisional (docs/api.md). They are imported at their first use.
"""

from __future__ import annotations

TYPE_CHECKING = False  # for type checkers it is True; importing `typing` would take time

if TYPE_CHECKING:
    from kubenetlab.hoststate.address import Address
    from kubenetlab.hoststate.daemons import Daemon
    from kubenetlab.hoststate.files import File
    from kubenetlab.hoststate.links.bridge import Bridge
    from kubenetlab.hoststate.links.dummy import Dummy
    from kubenetlab.hoststate.links.existing import LinkUp
    from kubenetlab.hoststate.links.veth import Port, Veth
    from kubenetlab.hoststate.neighbor import Neighbor
    from kubenetlab.hoststate.nexthop import Nexthop, NexthopGroup
    from kubenetlab.hoststate.object import Object, Origin
    from kubenetlab.hoststate.programs import ProgramRun
    from kubenetlab.hoststate.route import Route
    from kubenetlab.hoststate.rules.rulesets import NodeRules
    from kubenetlab.hoststate.sandbox import Sandbox, Settings, Sysctl
    from kubenetlab.hoststate.state import HostState

__all__ = [
    "Address",
    "Bridge",
    "Daemon",
    "Dummy",
    "File",
    "HostState",
    "LinkUp",
    "Neighbor",
    "Nexthop",
    "NexthopGroup",
    "NodeRules",
    "Object",
    "Origin",
    "Port",
    "ProgramRun",
    "Route",
    "Sandbox",
    "Settings",
    "Sysctl",
    "Veth",
]
_MODULES = {
    "Address": "address",
    "Bridge": "links.bridge",
    "Daemon": "daemons",
    "Dummy": "links.dummy",
    "File": "files",
    "HostState": "state",
    "LinkUp": "links.existing",
    "Neighbor": "neighbor",
    "Nexthop": "nexthop",
    "NexthopGroup": "nexthop",
    "NodeRules": "rules.rulesets",
    "Object": "object",
    "Origin": "object",
    "Port": "links.veth",
    "ProgramRun": "programs",
    "Route": "route",
    "Sandbox": "sandbox",
    "Settings": "sandbox",
    "Sysctl": "sandbox",
    "Veth": "links.veth",
}
"""Public name → module that defines it."""

if not TYPE_CHECKING:  # otherwise type checkers would accept every name

    def __getattr__(name: str) -> object:
        """Import a public name from the module that defines it."""
        from kubenetlab.lazy import import_name

        return import_name(__name__, name, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Plans, as far as the kernel package makes them."""

from __future__ import annotations

from kubenetlab.hoststate.state import HostState


def netlink(state: HostState) -> HostState:
    """What the kernel package itself makes: rules and programs are others' work."""
    kept = {
        netns: {key: obj for key, obj in contents.items() if obj.hand == "netlink"}
        for netns, contents in state.namespaces.items()
    }
    return HostState(kept, state.origins)

"""done: stands in for an init container without a command of this machine: ends well at once."""

from __future__ import annotations

from kubenetlab.programs.http import Me


async def main(me: Me) -> int:
    """The exit status."""
    me.log("stands in for an init container, and has nothing to do")
    return 0

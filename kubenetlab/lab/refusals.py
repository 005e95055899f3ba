"""What the other hands were refused, as users read it: like the kernel's own refusals, with who wanted it and what to do."""

from __future__ import annotations

import re

from kubenetlab.hoststate.nftables import key_of
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.advice import advice, nft_advice, report

_ERRNO = re.compile(r"\[Errno (\d+)\] ?")
"""As Python prints an OSError."""


def rules_refused(netns: str, said: str, desired: HostState) -> str:
    """One node's rules. The statement that nft shows tells the object, and the plan who wants that."""
    obj = next((obj for line in said.splitlines() if (obj := desired[netns].get(key_of(line) or ())) is not None), None)
    return report(
        f"{netns}: cannot load rules{f': {obj}' if obj else ''}", "nft", said, desired.origin(obj) if obj else None, nft_advice(said)
    )


def program_refused(run: Object, said: str, desired: HostState) -> str:
    """A container's program."""
    number = _ERRNO.search(said)
    what_to_do = advice(int(number[1]), "Sandbox") if number else ""
    return report(f"{run.netns}: cannot start {run}", "reason", _ERRNO.sub("", said), desired.origin(run), what_to_do)

"""done: a program that ends at once. It takes the place of an image's own program, which does work that the lab does not have.

Init containers without a command of this machine run it, and the containers of Jobs.
"""

from __future__ import annotations

from kubenetlab.programs.http import PodIdentity


async def main(me: PodIdentity) -> int:
    """Return the exit status: 0 unless the options say another one."""
    status: int = me.options.get("exit_code", 0)
    why = ", as the annotation kubenetlab.dev/exit-code says" if status else ""
    me.log(f"a built-in program without work ends at once{why}")
    return status

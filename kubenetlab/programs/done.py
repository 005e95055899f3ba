"""done: a program that ends at once.

It runs in init containers without a command of this machine and in containers of Jobs, whose images
do work that the lab cannot do.
"""

from __future__ import annotations

from kubenetlab.programs.support.http import ProgramContext


async def main(context: ProgramContext) -> int:
    """Return the exit status in the options; 0 by default."""
    status: int = context.options.get("exit_code", 0)
    reason = ", as the annotation kubenetlab.dev/exit-code says" if status else ""
    context.log(f"a built-in program without work ends at once{reason}")
    return status

"""agnhost connect: connects to HOST:PORT once.

It exits with 0, or prints TIMEOUT, REFUSED, DNS or OTHER and exits with 1.
Source: kubernetes test/images/agnhost/connect.
"""

from __future__ import annotations

import errno
from typing import Final

from kubenetlab.api.values.durations import duration_s
from kubenetlab.programs import Setup
from kubenetlab.programs.support.arguments import misused, options, port_number
from kubenetlab.programs.support.http import ProgramContext

OPTIONS: Final = frozenset(("timeout", "protocol", "sctpconntrackcheck"))
"""Modelled flags."""

_RESULTS = {errno.ETIMEDOUT: "TIMEOUT", errno.ECONNREFUSED: "REFUSED"}


def configure_arguments(words: tuple[str, ...]) -> Setup:
    flags = options(words)
    value_flags = {f"--{name}" for name in ("timeout", "protocol", "sctpconntrackcheck")}
    targets = [
        word
        for index, word in enumerate(words)
        if not word.startswith("-") and (index == 0 or words[index - 1] not in value_flags)
    ]
    host, _, port = (targets[0] if targets else "").rpartition(":")
    timeout = duration_s(flags.get("timeout", "5s"))
    if timeout is None:
        return misused(f'invalid argument "{flags["timeout"]}" for "--timeout" flag')
    try:
        number = port_number(port)
    except ValueError as error:
        return misused(f"expected HOST:PORT: {error}")
    return Setup(
        "connect",
        {
            "host": host.strip("[]"),
            "port": number,
            "protocol": flags.get("protocol", "tcp"),
            "timeout_s": timeout or 5.0,
        },
    )


async def main(context: ProgramContext) -> int:
    """Connect, and return the exit status."""
    host, number, timeout_s = (
        context.options["host"],
        context.options["port"],
        context.options["timeout_s"],
    )
    try:
        address = await context.network.resolve(host)
    except OSError as error:
        context.log(f"DNS: {error.strerror or error}")
        return 1
    try:
        if context.options["protocol"] == "udp":
            await context.network.exchange(address, number, b"hostname", timeout_s)
        else:
            await context.network.connect(address, number, timeout_s)
    except OSError as error:
        context.log(f"{_RESULTS.get(error.errno or 0, 'OTHER')}: {error.strerror or error}")
        return 1
    return 0

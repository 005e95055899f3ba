"""agnhost connect: connects to HOST:PORT and ends with 0, or says TIMEOUT, REFUSED, DNS or OTHER and ends with 1.

Source: kubernetes test/images/agnhost/connect.
"""

from __future__ import annotations

import errno
from typing import Final

from kubenetlab.api.durations import duration_s
from kubenetlab.programs import Setup
from kubenetlab.programs.arguments import misused, options, port_number
from kubenetlab.programs.http import PodIdentity

OPTIONS: Final = frozenset(("timeout", "protocol", "sctpconntrackcheck"))
"""The flags that are modelled."""

_WORDS = {errno.ETIMEDOUT: "TIMEOUT", errno.ECONNREFUSED: "REFUSED"}


def configure_arguments(words: tuple[str, ...]) -> Setup:
    given = options(words)
    value_flags = {f"--{name}" for name in ("timeout", "protocol", "sctpconntrackcheck")}
    targets = [
        word
        for index, word in enumerate(words)
        if not word.startswith("-") and (index == 0 or words[index - 1] not in value_flags)
    ]
    host, _, port = (targets[0] if targets else "").rpartition(":")
    timeout = duration_s(given.get("timeout", "5s"))
    if timeout is None:
        return misused(f'invalid argument "{given["timeout"]}" for "--timeout" flag')
    try:
        number = port_number(port)
    except ValueError as error:
        return misused(f"wanted HOST:PORT: {error}")
    return Setup(
        "connect",
        {
            "host": host.strip("[]"),
            "port": number,
            "protocol": given.get("protocol", "tcp"),
            "timeout_s": timeout or 5.0,
        },
    )


async def main(me: PodIdentity) -> int:
    """The exit status."""
    host, number, timeout_s = me.options["host"], me.options["port"], me.options["timeout_s"]
    try:
        address = await me.network.resolve(host)
    except OSError as error:
        me.log(f"DNS: {error.strerror or error}")
        return 1
    try:
        if me.options["protocol"] == "udp":
            await me.network.exchange(address, number, b"hostname", timeout_s)
        else:
            await me.network.connect(address, number, timeout_s)
    except OSError as error:
        me.log(f"{_WORDS.get(error.errno or 0, 'OTHER')}: {error.strerror or error}")
        return 1
    return 0

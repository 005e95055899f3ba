"""ipset backend: changes of members as netlink messages, all else by `ipset restore` and `save`.

The program also runs changes that the kernel refuses, because it explains what is wrong: they can
be repeated.

Source: ipset(8) 7.17; net/netfilter/nfnetlink.c (6.12).
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from kubenetlab.hoststate.rules.ipset import (
    Contents,
    decode_restore,
    failed_line,
    matches,
    members_after,
    parse,
)
from kubenetlab.hoststate.rules.ipset_messages import created_types, member_messages
from kubenetlab.hoststate.rules.rulesets import OwnedName
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.ipset_listing import UnknownFormError, read_members
from kubenetlab.kernel.rules.programs import ProgramRunner, require_program

PROGRAM: Final = "ipset"
INSTALL_HINT: Final = "install it with: apt-get install ipset"
CHECK_INTERVAL_S: Final = 10.0
"""Time between two checks for changes made by others, in seconds; each one reads all members."""

BATCH_SIZE: Final = 256
"""Number of requests sent at once: about 20 KB, of which the kernel returns those it refuses."""
RELEASE_TIMEOUT_S: Final = 2.0
"""Time allowed for the kernel to free deleted rules."""
RELEASE_INTERVAL_S: Final = 0.01
"""Time between two attempts to destroy sets that are in use."""

_IN_USE: Final = "in use by a kernel component"
_PREFIX = re.compile(r"^ipset v[\d.]+: (Error in line \d+: )?")


def open_loader() -> Ipset:
    """Open the ipset loader in the current network namespace.

    Raises RequirementError if the program is missing.
    """
    require_program(PROGRAM, INSTALL_HINT)
    return Ipset()


class Ipset:
    """Sets of the namespace in which this object was created."""

    def __init__(self) -> None:
        self._programs = ProgramRunner()
        self._requests = NetlinkRequests()
        self._listing = sockets.open_socket(sockets.NETLINK_NETFILTER)
        self._types: dict[str, str] = {}
        """Type of each set that was created here, by its name."""
        self._desired: Contents = {}
        """Desired content of the lab's sets."""
        self._next_check_at = 0.0

    def run(self, text: str) -> str:
        restore = decode_restore(text)
        self._types.update(created_types(restore.text))
        messages = member_messages(restore.text, self._types)
        if messages is None or not self._requests.apply(messages):
            self.restore(restore.text)
        if restore.anew:
            self._destroy(
                name
                for name in self._names()
                if name.startswith(restore.anew) and name not in restore.kept
            )
        self._destroy(restore.destroyed)
        self._desired = members_after(self._desired, restore)
        return ""

    def has_drift(self) -> bool:
        if not self._desired or time.monotonic() < self._next_check_at:
            return False
        self._next_check_at = time.monotonic() + CHECK_INTERVAL_S
        return not matches(self._desired, self._members())

    def _members(self) -> Mapping[str, Iterable[str]]:
        """Return the members of all sets; the program knows types that the lab does not use."""
        try:
            return read_members(self._listing)
        except (UnknownFormError, OSError):
            return parse(self.text())

    def restore(self, text: str) -> None:
        """Run `ipset restore` with this input."""
        if text:
            self._run(["restore"], text)

    def _destroy(self, names: Iterable[str]) -> None:
        """Destroy sets; wait for the kernel to free deleted rules, which still refer to them."""
        remaining, deadline = tuple(names), time.monotonic() + RELEASE_TIMEOUT_S
        while True:
            try:
                self.restore("".join(f"destroy {name}\n" for name in remaining))
                return
            except RulesError as error:
                if _IN_USE not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(RELEASE_INTERVAL_S)
            existing = frozenset(self._names())
            remaining = tuple(name for name in remaining if name in existing)

    def _names(self) -> list[str]:
        """Return the names of all sets."""
        return self._run(["list", "-n"]).split()

    def listed(self, names: Sequence[OwnedName]) -> str:
        return self.text()

    def text(self) -> str:
        return self._run(["save"])

    def close(self) -> None:
        self._programs.close()
        self._requests.close()
        self._listing.close()

    def _run(self, arguments: list[str], text: str = "") -> str:
        result = self._programs.run([PROGRAM, *arguments], text)
        if result.returncode:
            raise RulesError(format_error(result.stderr, text))
        return result.stdout


class NetlinkRequests:
    """Requests to the netfilter subsystems, in the namespace in which this object was created."""

    def __init__(self) -> None:
        self._socket = sockets.open_socket(sockets.NETLINK_NETFILTER, socket.SOCK_NONBLOCK)

    def apply(self, requests: Sequence[bytes]) -> bool:
        """Send requests, which take effect one by one; return False if the kernel refuses any."""
        sockets.read_errors(self._socket)  # discard late replies to former requests
        for begin in range(0, len(requests), BATCH_SIZE):
            try:
                self._socket.send(b"".join(requests[begin : begin + BATCH_SIZE]))
            except OSError:
                return False
            if sockets.read_errors(self._socket):
                return False
        return True

    def close(self) -> None:
        self._socket.close()


def format_error(output: str, text: str) -> str:
    """Return the program's error message, with the line that it rejected."""
    reason = _PREFIX.sub("", output.strip()) or "the program failed without a message"
    number = failed_line(output)
    return (
        "\n".join([f"ipset restore: {reason}", *text.splitlines()[number - 1 : number]])
        if number
        else reason
    )

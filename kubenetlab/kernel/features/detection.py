"""What this machine can do: by trying, in a scratch namespace where that is needed."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from typing import Final

from kubenetlab.kernel.processes.inheritance import CONTAINER_PATH
from kubenetlab.kernel.rules import libbpf, nftables

PACKAGES: Final[Mapping[str, str]] = {
    "nft": "nftables",
    "ip": "iproute2",
    "ping": "iputils-ping",
    "iptables-nft-restore": "iptables",
    "ipset": "ipset",
    "newuidmap": "uidmap",
    libbpf.LIBRARY: "libbpf1",
}
"""Program or library → Debian's package."""

BRIDGE_NETFILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"


def has_br_netfilter() -> bool:
    """True when bridged packets can pass the IP hooks, which Services need where pods share a bridge."""
    return os.path.exists(BRIDGE_NETFILTER)


def try_sctp() -> None:
    """Raises OSError where this kernel does not speak SCTP; one that has it in a module loads that now."""
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()


def has_sctp() -> bool:
    """True when this kernel speaks SCTP."""
    try:
        try_sctp()
    except OSError:
        return False
    return True


def has_command(command: str, path: str = CONTAINER_PATH) -> bool:
    """True when a container's command is a program of this machine."""
    return shutil.which(command, path=path) is not None


def no_such_command(command: str) -> str:
    """What is said of a command that is none."""
    return f'exec: "{command}": executable file not found in $PATH'


def has_ipv6() -> bool:
    """True when the kernel has IPv6; ipv6.disable=1 on its command line takes it away."""
    return os.path.isdir("/proc/sys/net/ipv6")


def install_hint(program: str) -> str:
    """A program, and how to get it."""
    return f"{program} (apt-get install {PACKAGES.get(program, program)})"


def has_program(program: str) -> bool:
    """True when a program, or the library that does the same, is here."""
    if program == libbpf.LIBRARY:
        return libbpf.has_library()
    return shutil.which(program) is not None or (
        program == nftables.PROGRAM and nftables.has_library()
    )

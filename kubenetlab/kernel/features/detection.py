"""Detection of programs, libraries and kernel features of this machine."""

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
    "bird": "bird2",
    "iptables-nft-restore": "iptables",
    "ipset": "ipset",
    "newuidmap": "uidmap",
    libbpf.LIBRARY: "libbpf1",
}
"""Program or library → Debian package that contains it."""

PLUGINS_PACKAGE: Final = "containernetworking-plugins"
"""Debian package of the CNI plugins of the project containernetworking."""

BRIDGE_NETFILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"


def has_br_netfilter() -> bool:
    """Return True if bridged packets pass the IP hooks of netfilter.

    Services need this where pods share a bridge.
    """
    return os.path.exists(BRIDGE_NETFILTER)


def probe_sctp() -> None:
    """Raise OSError if this kernel does not support SCTP; load the module if it has one."""
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()


def has_sctp() -> bool:
    """Return True if this kernel supports SCTP."""
    try:
        probe_sctp()
    except OSError:
        return False
    return True


def has_command(command: str, path: str = CONTAINER_PATH) -> bool:
    """Return True if a container's command is a program of this machine."""
    return shutil.which(command, path=path) is not None


def no_such_command(command: str) -> str:
    """Return the error message for a container's command that does not exist, as runc words it."""
    return f'exec: "{command}": executable file not found in $PATH'


def has_ipv6() -> bool:
    """Return True if the kernel has IPv6; ipv6.disable=1 on its command line disables it."""
    return os.path.isdir("/proc/sys/net/ipv6")


def install_hint(program: str) -> str:
    """Return a program's name and how to install it."""
    return f"{program} (apt-get install {PACKAGES.get(program, program)})"


def has_program(program: str) -> bool:
    """Return True if a program is installed, or a library that replaces it."""
    if program == libbpf.LIBRARY:
        return libbpf.has_library()
    return shutil.which(program) is not None or (
        program == nftables.PROGRAM and nftables.has_library()
    )

"""Sandboxes, which are the namespaces held by a pause process, and their sysctls."""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterator

from kubenetlab.hoststate.object import Key, Object, ShellName


class Sandbox(Object, frozen=True):
    """Network, UTS, IPC and PID namespaces held by one pause process; `netns` is its own name."""

    rank = 0

    hostname: str
    shares: str = ""
    """Sandbox whose network and UTS namespaces it joins instead of having its own: the node of a
    hostNetwork pod. Empty: none."""

    @property
    def key(self) -> Key:
        return ("Sandbox",)

    def __str__(self) -> str:
        return (
            f"sandbox in the network namespace of {self.shares}"
            if self.shares
            else f"sandbox, hostname {self.hostname}"
        )

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        """Yield the command that creates the network namespace, unless it is shared."""
        if not self.shares:
            yield f"ip netns add {shell_name(self.netns)}"


class Sysctl(Object, frozen=True):
    """One sysctl, by its path below /proc/sys: `net/ipv4/ip_forward`."""

    rank = 10

    path: str
    value: str
    is_optional: bool = False
    """True if the lab works on kernels without this sysctl, too."""

    @property
    def key(self) -> Key:
        return ("Sysctl", self.path)

    def __str__(self) -> str:
        return f"sysctl {self.path.replace('/', '.')} = {self.value}"

    @property
    def assignment(self) -> str:
        """Argument of sysctl(8), quoted for a shell.

        A path that contains a dot, such as that of a VLAN link, keeps its slashes.
        """
        name = self.path if "." in self.path else self.path.replace("/", ".")
        return shlex.quote(f"{name}={' '.join(self.value.split())}")

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        """Yield the command that writes the sysctl; `-e` ignores one that the kernel lacks."""
        options = "-qew" if self.is_optional else "-qw"
        yield f"ip netns exec {shell_name(self.netns)} sysctl {options} {self.assignment}"


Setting = tuple[str, str, bool]
"""Path, value and `is_optional` of a Sysctl."""


class Settings(Object, frozen=True):
    """Sysctls that all namespaces of one kind have in common; they share one table."""

    rank = 10

    table: tuple[Setting, ...]

    @property
    def key(self) -> Key:
        return ("Settings",)

    @property
    def parts(self) -> tuple[Sysctl, ...]:
        return tuple(Sysctl(self.netns, *setting) for setting in self.table)

    def without(self, paths: Container[str]) -> Settings:
        """Return a copy without some paths, which other objects set."""
        return Settings(
            self.netns, tuple(setting for setting in self.table if setting[0] not in paths)
        )

    def __str__(self) -> str:
        return f"{len(self.table)} settings"

"""Sandbox, Sysctl and Settings: a set of namespaces held by a pause process, and settings inside."""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterator

from kubenetlab.hoststate.object import Key, Object, Word


class Sandbox(Object, frozen=True):
    """Network, UTS, IPC and PID namespaces held by one pause process. It is its own `netns`.

    With `shares` it joins another sandbox's network and UTS namespaces instead of having its own: a hostNetwork pod on its node.
    """

    rank = 0

    hostname: str
    shares: str = ""

    @property
    def key(self) -> Key:
        return ("Sandbox",)

    def __str__(self) -> str:
        return (
            f"sandbox in the network namespace of {self.shares}"
            if self.shares
            else f"sandbox, hostname {self.hostname}"
        )

    def commands(self, word: Word) -> Iterator[str]:
        """The network namespace alone."""
        if not self.shares:
            yield f"ip netns add {word(self.netns)}"


class Sysctl(Object, frozen=True):
    """One setting below /proc/sys, by its path there: `net/ipv4/ip_forward`."""

    rank = 10

    path: str
    value: str
    is_optional: bool = False
    """True when a kernel without this setting will do as well."""

    @property
    def key(self) -> Key:
        return ("Sysctl", self.path)

    def __str__(self) -> str:
        return f"sysctl {self.path.replace('/', '.')} = {self.value}"

    @property
    def assignment(self) -> str:
        """As sysctl(8) takes it, quoted for a shell. A path with a dot in it, that of a VLAN's link, keeps its slashes."""
        name = self.path if "." in self.path else self.path.replace("/", ".")
        return shlex.quote(f"{name}={' '.join(self.value.split())}")

    def commands(self, word: Word) -> Iterator[str]:
        """`-e` passes over what this kernel does not know."""
        yield f"ip netns exec {word(self.netns)} sysctl {'-qew' if self.is_optional else '-qw'} {self.assignment}"


Setting = tuple[str, str, bool]
"""Path, value, and whether a kernel without it will do as well: a Sysctl without its namespace."""


class Settings(Object, frozen=True):
    """What every namespace of a kind has set: one table for all of them."""

    rank = 10

    table: tuple[Setting, ...]

    @property
    def key(self) -> Key:
        return ("Settings",)

    @property
    def parts(self) -> tuple[Sysctl, ...]:
        return tuple(Sysctl(self.netns, *setting) for setting in self.table)

    def without(self, paths: Container[str]) -> Settings:
        """But for some, about which somebody else has his say."""
        return Settings(
            self.netns, tuple(setting for setting in self.table if setting[0] not in paths)
        )

    def __str__(self) -> str:
        return f"{len(self.table)} settings"

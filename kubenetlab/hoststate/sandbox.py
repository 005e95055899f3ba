"""Sandbox and Sysctl: a set of namespaces held by a pause process, and settings inside."""

from kubenetlab.hoststate.object import Key, Object


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
        return f"sandbox in the network namespace of {self.shares}" if self.shares else f"sandbox, hostname {self.hostname}"


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

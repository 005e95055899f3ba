"""What this machine can do, found out by doing it in scratch namespaces that vanish with the process that tried."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from typing import Literal

from msgspec import Struct

from kubenetlab.hoststate.link import Bridge, Port, Veth
from kubenetlab.kernel import nft, pause
from kubenetlab.kernel.features import PACKAGES, has_br_netfilter, has_ipv6, has_program
from kubenetlab.kernel.syscalls import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS, unshare

State = Literal["ok", "missing", "optional"]

_NAT_RULES = """
add table ip t
add chain ip t c { type nat hook postrouting priority 100 ; }
add map ip t m { type ipv4_addr . inet_proto . inet_service : verdict ; comment "a map" ; }
add chain ip t s { comment "a chain" ; }
add rule ip t s numgen random mod 2 vmap { 0 : drop, 1 : accept }
add set ip t d { type ipv4_addr ; flags dynamic,timeout ; timeout 60s ; }
add rule ip t s update @d { ip saddr }
add rule ip t c fib daddr type != local masquerade fully-random comment "a rule"
"""


class Finding(Struct, frozen=True):
    """One thing that was tried."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Everything that labs need or can use, in order."""
    return list(_findings())


def _findings() -> Iterator[Finding]:
    yield Finding("Linux", "ok", f"{platform.release()} on {platform.machine()}, Python {platform.python_version()}")
    yield _machine()
    yield from _programs()
    for name, try_it, needed_for in (
        ("namespaces", _try_namespaces, "labs"),
        ("bridge and veth", _try_links, "the nodes' and pods' links"),
        ("nftables nat", _try_nat, "Services and masquerade"),
    ):
        fault = _in_child(try_it)
        yield Finding(
            name, "ok" if not fault else "missing", "works" if not fault else f"{fault} (for {needed_for})", _remedy(name) if fault else ""
        )
    fault = _in_child(_try_ipv6)
    yield (
        Finding("IPv6", "ok", "labs can be dual-stack, or have IPv6 alone")
        if not fault
        else Finding(
            "IPv6", "optional", f"{fault}: labs have IPv4 only", "boot without ipv6.disable=1; CONFIG_IPV6 and CONFIG_NF_TABLES_IPV6"
        )
    )
    if has_br_netfilter():
        yield Finding("br_netfilter", "ok", "pods can share their node's bridge")
    else:
        yield Finding(
            "br_netfilter",
            "optional",
            "missing: pods will be /32, routed by their node",
            "sudo modprobe br_netfilter (it changes the machine's own bridges too)",
        )


def _machine() -> Finding:
    try:
        pause.program()
    except Exception as error:
        return Finding("processor", "missing", str(error))
    return Finding("processor", "ok", "there is a pause program for it")


def _programs() -> Iterator[Finding]:
    where = nft.LIBRARY if nft.has_library() else shutil.which("nft") or ""
    yield (
        Finding("nft", "ok", f"by {where}")
        if has_program("nft")
        else Finding("nft", "missing", "neither library nor program (for rules)", "sudo apt-get install nftables")
    )
    for program, what in (("ip", "to look around inside: exec POD -- ip addr"), ("ping", "to ping by hand inside")):
        found = shutil.which(program)
        yield (
            Finding(program, "ok", found)
            if found
            else Finding(program, "optional", f"missing ({what})", f"sudo apt-get install {PACKAGES[program]}")
        )


def _remedy(name: str) -> str:
    if name == "namespaces":
        return "run as root (sudo)" if os.geteuid() else "this environment forbids namespaces: a container needs --privileged"
    return "a kernel with CONFIG_BRIDGE, CONFIG_VETH, CONFIG_NF_TABLES and CONFIG_NFT_NAT, as Debian's and Ubuntu's have"


def _in_child(try_it: Callable[[], None]) -> str:
    """Tries something in a process of its own; what went wrong, or nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try_it()
            os._exit(0)
        except BaseException as error:
            os.write(writing, f"{getattr(error, 'strerror', None) or error}".encode()[:500])
        finally:
            os._exit(1)
    os.close(writing)
    said = os.read(reading, 500).decode()
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return said or ("" if status == 0 else f"ended with status {status}")


def _try_namespaces() -> None:
    _leave()
    unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC)


def _try_links() -> None:
    from kubenetlab.kernel.rtnetlink import RouteSocket

    _leave()
    unshare(CLONE_NEWNET)
    links = _Links()
    requests = [
        Bridge("here", "br", "0a:58:00:00:00:01").create(links),
        Veth("here", "a", "0a:58:00:00:00:02", "here", "b").create(links),
        Port("here", "b", "br", "0a:58:00:00:00:03", alias="a port", is_hairpin=True).create(links),
    ]
    with RouteSocket() as route:
        refusals = route.batch(requests)
    if refusals:
        raise OSError(refusals[0].errno, str(refusals[0]))


def _try_nat() -> None:
    _leave()
    unshare(CLONE_NEWNET)
    rules = nft.open_here()
    try:
        rules.run(_NAT_RULES)
    finally:
        rules.close()


def _try_ipv6() -> None:
    if not has_ipv6():
        raise OSError("the kernel has no IPv6")
    _leave()
    unshare(CLONE_NEWNET)
    rules = nft.open_here()
    try:
        rules.run(_NAT_RULES.replace(" ip ", " ip6 ").replace("ipv4_addr", "ipv6_addr"))
    finally:
        rules.close()


def _leave() -> None:
    """A user namespace for who is not root, as for labs."""
    if os.geteuid():
        user = os.geteuid()
        unshare(CLONE_NEWUSER)
        with open("/proc/self/uid_map", "w") as uid_map:
            uid_map.write(f"0 {user} 1")


class _Links:
    """Indexes for one scratch namespace (hoststate.wire.Links)."""

    def __init__(self) -> None:
        self._indexes: dict[tuple[str, str], int] = {}

    def index(self, netns: str, link: str) -> int:
        return self._indexes[netns, link]

    def new_index(self, netns: str, link: str) -> int:
        self._indexes[netns, link] = index = 1000 + len(self._indexes)
        return index

    def namespace_fd(self, netns: str) -> int:
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

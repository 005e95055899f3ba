"""What a refusal of the kernel is called, and what to do about it, where that is known."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

WAITS: Final = "what it stands on is gone; the lab makes that anew and tries again by itself"
"""Of what fails because something else did."""

_LINKS, _SANDBOX = ("Bridge", "Veth", "Port", "LinkUp", "Dummy"), ("Sandbox",)


class _Advice(NamedTuple):
    numbers: tuple[int, ...]
    kinds: tuple[str, ...]
    """Of which objects it holds; none: of all."""
    text: str


_ADVICE: Final[Sequence[_Advice]] = (
    _Advice(
        (errno.EROFS,),
        ("Sysctl",),
        "this environment makes /proc/sys read-only even in new namespaces: give the container --privileged, or run outside of it",
    ),
    _Advice(
        (errno.EPERM, errno.EACCES),
        ("Sysctl",),
        "this setting is not to be written here: it is the whole machine's, or read-only",
    ),
    _Advice(
        (errno.EACCES,),
        ("Address", "Route"),
        "IPv6 is switched off there: see net.ipv6.conf.*.disable_ipv6 with kubenetlab exec",
    ),
    _Advice(
        (errno.EPERM, errno.EACCES), (), "a permission is lacking: kubenetlab doctor says which"
    ),
    _Advice(
        (errno.ENOENT,),
        ("Sysctl",),
        "this kernel has no such setting, or its module is not loaded: kubenetlab doctor",
    ),
    _Advice(
        (errno.ENOSPC, errno.EUSERS),
        _SANDBOX,
        "a limit of namespaces is reached, user.max_…_namespaces: kubenetlab doctor shows them all; fewer pods, or a higher limit",
    ),
    _Advice(
        (errno.EAGAIN,),
        _SANDBOX,
        "a limit of processes is reached: kubenetlab doctor shows ulimit -Hu, kernel.pid_max and pids.max; fewer pods, or a higher limit",
    ),
    _Advice(
        (errno.EMFILE, errno.ENFILE),
        (),
        "too many open files: a higher hard limit (ulimit -Hn), then the lab anew",
    ),
    _Advice(
        (errno.ENOMEM, errno.ENOBUFS),
        (),
        "the kernel has no memory left for it: fewer pods, or a higher limit of this cgroup",
    ),
    _Advice(
        (errno.EOPNOTSUPP, errno.EAFNOSUPPORT),
        _LINKS,
        "this kernel does not know such links: kubenetlab doctor says what is missing",
    ),
    _Advice(
        (errno.EOPNOTSUPP, errno.EAFNOSUPPORT),
        (),
        "this kernel cannot do it: kubenetlab doctor says what is missing",
    ),
    _Advice(
        (errno.EXFULL,),
        ("Port",),
        "a bridge has 1,023 ports at most: more nodes, or fewer pods on each",
    ),
    _Advice(
        (errno.EEXIST,),
        (),
        "something else has its place there: look with kubenetlab exec and ip, and take it away; the lab tries again by itself",
    ),
    _Advice(
        (errno.ENODEV,),
        ("LinkUp",),
        "the link to this machine is gone: kubenetlab up --uplink makes it anew, --no-uplink does without",
    ),
    _Advice((errno.ENODEV, errno.ENXIO, errno.ESRCH), (), WAITS),
    _Advice(
        (errno.ENETUNREACH,),
        ("Route",),
        "no address of that device shares a subnet with the gateway: see kubenetlab diff",
    ),
)
"""The first that fits counts."""

_NFT: Final = (
    (
        "syntax error",
        "this nft does not know the syntax: kubenetlab needs nftables 1.0 or newer; kubenetlab doctor shows which there is",
    ),
    (
        "Operation not supported",
        "this kernel lacks what the rule uses: kubenetlab doctor tries each part",
    ),
    ("Operation not permitted", "a permission is lacking: kubenetlab doctor says which"),
    (
        "No such file or directory",
        "a chain, set or kernel module that it names is not there; the node's tables are made anew with the next try",
    ),
    (
        "Device or resource busy",
        "something still refers to it; the node's tables are made anew with the next try",
    ),
    ("File exists", "somebody else added it; the node's tables are made anew with the next try"),
)
"""Part of what nft says → what to do."""


def said(number: int, text: str = "") -> str:
    """The kernel's own words, or those of its errno, and the errno's name: `File exists (EEXIST)`."""
    name = errno.errorcode.get(number, "")
    return f"{text or os.strerror(number)} ({name})" if name else text or os.strerror(number)


def advice(number: int, kind: str) -> str:
    """What to do when an object of this class is refused; nothing where nobody knows better than the kernel's words."""
    return next(
        (
            entry.text
            for entry in _ADVICE
            if number in entry.numbers and (not entry.kinds or kind in entry.kinds)
        ),
        "",
    )


def rules_advice(text: str) -> str:
    """The same for what nft says."""
    return next((what for words, what in _NFT if words in text), "")


def report(subject: str, who: str, text: str, origin: object = None, what_to_do: str = "") -> str:
    """A refusal as users read it: what could not be done where, who said why, who wanted it, and what to do."""
    first, *rest = text.splitlines() or [""]
    wanted_by = f"      wanted by: {origin}" if origin else ""
    lines = [subject, f"  {who}: {first}{wanted_by}", *(f"    {line}" for line in rest)]
    return "\n".join([*lines, f"  → {what_to_do}"] if what_to_do else lines)

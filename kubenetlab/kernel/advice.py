"""Texts for errors of the kernel and of nft, and advice for those with a known remedy."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

DEPENDENCY_FAILED: Final = (
    "the object that it depends on is gone; the lab creates it again and retries by itself"
)
"""Advice for an operation that failed only because another one did."""

_LINKS, _SANDBOX = ("Bridge", "Veth", "Port", "LinkUp", "Dummy"), ("Sandbox",)


class _Advice(NamedTuple):
    errnos: tuple[int, ...]
    kinds: tuple[str, ...]
    """Class names of the objects to which the advice applies; empty: all."""
    text: str


_ADVICE_BY_ERRNO: Final[Sequence[_Advice]] = (
    _Advice(
        (errno.EROFS,),
        ("Sysctl",),
        "/proc/sys is read-only here, even in new namespaces: run the container with "
        "--privileged, or run kubenetlab outside of it",
    ),
    _Advice(
        (errno.EPERM, errno.EACCES),
        ("Sysctl",),
        "this sysctl cannot be written here: it is read-only, or belongs to the whole machine",
    ),
    _Advice(
        (errno.EACCES,),
        ("Address", "Route"),
        "IPv6 is disabled there: check net.ipv6.conf.*.disable_ipv6 with kubenetlab exec",
    ),
    _Advice(
        (errno.EPERM, errno.EACCES), (), "a permission is missing: kubenetlab doctor shows which"
    ),
    _Advice(
        (errno.ENOENT,),
        ("Sysctl",),
        "this kernel has no such sysctl, or its module is not loaded: run kubenetlab doctor",
    ),
    _Advice(
        (errno.ENOSPC, errno.EUSERS),
        _SANDBOX,
        "a limit of namespaces is reached (user.max_…_namespaces): use fewer pods or raise the "
        "limit; kubenetlab doctor shows all limits",
    ),
    _Advice(
        (errno.EAGAIN,),
        _SANDBOX,
        "a limit of processes is reached: use fewer pods or raise the limit; "
        "kubenetlab doctor shows ulimit -Hu, kernel.pid_max and pids.max",
    ),
    _Advice(
        (errno.EMFILE, errno.ENFILE),
        (),
        "too many open files: raise the hard limit (ulimit -Hn), then create the lab again",
    ),
    _Advice(
        (errno.ENOMEM, errno.ENOBUFS),
        (),
        "the kernel is out of memory: use fewer pods, or raise the memory limit of this cgroup",
    ),
    _Advice(
        (errno.EOPNOTSUPP, errno.EAFNOSUPPORT),
        _LINKS,
        "this kernel does not support such links: kubenetlab doctor shows what is missing",
    ),
    _Advice(
        (errno.EOPNOTSUPP, errno.EAFNOSUPPORT),
        (),
        "this kernel does not support it: kubenetlab doctor shows what is missing",
    ),
    _Advice(
        (errno.EXFULL,),
        ("Port",),
        "a bridge has 1,023 ports at most: use more nodes, or fewer pods per node",
    ),
    _Advice(
        (errno.EEXIST,),
        (),
        "another object has its name or address: find it with kubenetlab exec and ip, and delete "
        "it; the lab retries by itself",
    ),
    _Advice(
        (errno.ENODEV,),
        ("LinkUp",),
        "the link to this machine is gone: kubenetlab up --uplink creates it again, "
        "up --no-uplink runs the lab without it",
    ),
    _Advice((errno.ENODEV, errno.ENXIO, errno.ESRCH), (), DEPENDENCY_FAILED),
    _Advice(
        (errno.ENETUNREACH,),
        ("Route",),
        "no address of that device shares a subnet with the gateway: see kubenetlab diff",
    ),
)
"""Advice by errno and object; the first match applies."""

_REPLACED: Final = "the next attempt replaces all tables of the node"
_NFT_ADVICE: Final = (
    (
        "syntax error",
        "this nft does not support the syntax: kubenetlab needs nftables 1.0 or newer; "
        "kubenetlab doctor shows which nft is used",
    ),
    (
        "Operation not supported",
        "this kernel lacks a feature that the rule uses: kubenetlab doctor shows what is missing",
    ),
    (
        "the map cilium_cidr holds",
        "name fewer or larger ranges of addresses in network policies; pods inside count, too",
    ),
    (
        "the map cilium_policy holds",
        "give the pods of this node policies with fewer peers, or with fewer ranges of ports",
    ),
    ("the map cilium_", "give this node fewer pods, or its pods fewer policies and rules"),
    ("the map ", "use fewer Services and endpoints, or another mode of kube-proxy"),
    ("Operation not permitted", "a permission is missing: kubenetlab doctor shows which"),
    (
        "No such file or directory",
        f"a chain, set or kernel module that the rule names does not exist; {_REPLACED}",
    ),
    (
        "Device or resource busy",
        f"another rule still refers to it; {_REPLACED}",
    ),
    ("File exists", f"another program added it; {_REPLACED}"),
)
"""(part of an error message of nft, advice) pairs; the first match applies."""


def describe_error(number: int, text: str = "") -> str:
    """Return the kernel's message, or that of its errno, with the errno's name.

    Example: `File exists (EEXIST)`.
    """
    name = errno.errorcode.get(number, "")
    return f"{text or os.strerror(number)} ({name})" if name else text or os.strerror(number)


def advice(number: int, kind: str) -> str:
    """Return what to do when the kernel refuses an object of this class; empty if unknown."""
    return next(
        (
            entry.text
            for entry in _ADVICE_BY_ERRNO
            if number in entry.errnos and (not entry.kinds or kind in entry.kinds)
        ),
        "",
    )


def rules_advice(text: str) -> str:
    """Return what to do about an error message of nft; empty if unknown."""
    return next((advice_text for pattern, advice_text in _NFT_ADVICE if pattern in text), "")


def report(subject: str, who: str, text: str, origin: object = None, what_to_do: str = "") -> str:
    """Format a failed operation for users.

    subject: what failed, and where.
    who: component that reported the error.
    text: its message; further lines are indented.
    origin: component and Kubernetes object that need the operation.
    what_to_do: advice.
    """
    first, *rest = text.splitlines() or [""]
    wanted_by = f"      wanted by: {origin}" if origin else ""
    lines = [subject, f"  {who}: {first}{wanted_by}", *(f"    {line}" for line in rest)]
    return "\n".join([*lines, f"  → {what_to_do}"] if what_to_do else lines)

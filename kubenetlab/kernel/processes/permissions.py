"""Permissions that are required to create a lab, and remedies if they are missing.

Root needs some capabilities, which a container may lack. An ordinary user has all of them in a user
namespace, which a machine may forbid.

Source: capabilities(7); user_namespaces(7); include/uapi/linux/capability.h; Debian's and Ubuntu's
kernel patches for the two sysctls.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final, NamedTuple

from kubenetlab.errors import RequirementError


class _Capability(NamedTuple):
    number: int
    purpose: str


NEEDED: Final = {
    "CAP_SYS_ADMIN": _Capability(21, "namespaces, mounts and host names"),
    "CAP_NET_ADMIN": _Capability(12, "links, addresses, routes and rules"),
    "CAP_NET_BIND_SERVICE": _Capability(
        10, "programs that listen on ports below 1024, DNS among them"
    ),
}

_CONTAINER_REMEDY: Final = (
    "docker run --privileged, or --cap-add SYS_ADMIN --cap-add NET_ADMIN "
    "without the profiles of seccomp and AppArmor"
)
HIDDEN_PROC: Final = (
    "this container hides parts of /proc: "
    "docker run --privileged, or --security-opt systempaths=unconfined"
)
"""Remedy if a user namespace cannot mount a /proc: fs/namespace.c mount_too_revealing()."""
FILTERED_CALLS: Final = (
    "this container's seccomp profile refuses it: "
    "docker run --privileged, or --security-opt seccomp=unconfined"
)
"""Remedy if namespaces can be created but not given a host name.

Seccomp profiles of containers depend on the capabilities that the container was given."""
_FORBIDDING_SYSCTLS: Final = (
    (
        "user/max_user_namespaces",
        "0",
        "user.max_user_namespaces is 0",
        "sudo sysctl -w user.max_user_namespaces=10000",
    ),
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "kernel.unprivileged_userns_clone is 0",
        "sudo sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, "
        "or an AppArmor profile with `userns,`",
    ),
)
"""(sysctl below /proc/sys, value that forbids user namespaces, its meaning, remedy)."""


_IDENTITY: Final = [b"0", b"0", b"4294967295"]
"""Content of uid_map in the initial user namespace."""


def is_root(proc: str = "/proc") -> bool:
    """Return True for root of the machine; root in a user namespace has fewer rights."""
    return os.geteuid() == 0 and is_first_user_namespace(Path(proc))


def is_first_user_namespace(proc: Path = Path("/proc")) -> bool:
    """Return True in the initial user namespace, where every user is mapped to itself."""
    try:
        # Without pathlib's and the text layer's overhead: a command asks about twenty times.
        with open(f"{proc}/self/uid_map", "rb", buffering=0) as file:
            return file.read().split() == _IDENTITY
    except OSError:
        return True


def outer_uid(proc: Path = Path("/proc")) -> int:
    """Return this user's UID in the parent user namespace."""
    try:
        ranges = [
            [int(field) for field in line.split()]
            for line in (proc / "self" / "uid_map").read_text().splitlines()
        ]
    except OSError:
        ranges = []
    uid = os.geteuid()
    return next(
        (outer + uid - inner for inner, outer, count in ranges if inner <= uid < inner + count), uid
    )


def effective_capabilities(proc: str = "/proc") -> int:
    """Return this process's effective capabilities as a bit set; all if /proc cannot be read."""
    try:
        status = Path(proc, "self", "status").read_text()
    except OSError:
        return -1
    return next(
        (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), -1
    )


def missing_capabilities(capabilities: int) -> dict[str, str]:
    """Return required capability → purpose, for those missing in the bit set."""
    return {
        name: entry.purpose
        for name, entry in NEEDED.items()
        if not capabilities >> entry.number & 1
    }


def has_mounted_root(proc: Path = Path("/proc")) -> bool:
    """Return False in a plain chroot, whose root directory is not a mount point.

    Mounts could then propagate to the outside, and nothing can be mounted.

    Source: fs/namespace.c do_change_type(): EINVAL if the path is not a mount point (6.12).
    """
    try:
        mounts = (proc / "self" / "mountinfo").read_text().splitlines()
    except OSError:
        return True
    return any(line.split(" ", 5)[4] == "/" for line in mounts)


ROOT_NOT_MOUNTED: Final = "the root directory is not a mount point: this is a plain chroot"
MOUNT_ROOT: Final = (
    "mount --bind DIR DIR before chroot DIR; "
    "or systemd-nspawn -D DIR, or unshare --mount --root DIR"
)


def require_permissions() -> None:
    """Raise RequirementError if root lacks capabilities, or in a plain chroot.

    Whether an ordinary user may create namespaces is known only when they are created.
    """
    if not has_mounted_root():
        raise RequirementError(f"{ROOT_NOT_MOUNTED}\n  → {MOUNT_ROOT}\n  see kubenetlab doctor")
    missing = missing_capabilities(effective_capabilities()) if os.geteuid() == 0 else {}
    if missing:
        lines = "".join(f"\n  {name}: {purpose}" for name, purpose in missing.items())
        raise RequirementError(
            f"root lacks permissions here that a lab needs{lines}\n"
            f"  → {remedy(errno.EPERM)}\n  see kubenetlab doctor"
        )


def remedy(number: int = 0, proc: str = "/proc") -> str:
    """Return what to do if the kernel refuses namespaces; name the setting that forbids them.

    number: errno of the refusal; 0: unknown.
    """
    if number == errno.ENOSPC:
        return "a limit of namespaces is reached: kubenetlab doctor shows user.max_…_namespaces"
    if os.geteuid() == 0:
        return f"in a container: {_CONTAINER_REMEDY}"
    for setting, value, meaning, what_to_do in _FORBIDDING_SYSCTLS:
        try:
            if Path(proc, "sys", setting).read_text().strip() == value:
                return f"{meaning}: {what_to_do}; or run as root (sudo)"
        except OSError:
            continue
    return f"run as root (sudo); in a container: {_CONTAINER_REMEDY}"

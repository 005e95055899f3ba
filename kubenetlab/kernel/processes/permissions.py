"""What whoever makes a lab must be allowed to do, what stands in the way, and how it is had.

Root needs a few capabilities, which a container may lack. An ordinary user gets all of them in a user namespace, which a machine may forbid.
Source: capabilities(7); user_namespaces(7); include/uapi/linux/capability.h; Debian's and Ubuntu's kernel patches for the two settings.
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

_IN_A_CONTAINER: Final = "docker run --privileged, or --cap-add SYS_ADMIN --cap-add NET_ADMIN without the profiles of seccomp and AppArmor"
HIDDEN_PROC: Final = "this container hides parts of /proc: docker run --privileged, or --security-opt systempaths=unconfined"
"""Remedy where a user namespace cannot mount a /proc: fs/namespace.c mount_too_revealing()."""
FILTERED_CALLS: Final = "this container's seccomp profile refuses it: docker run --privileged, or --security-opt seccomp=unconfined"
"""Remedy where namespaces can be made but not named: profiles look at the capabilities that the container was given."""
_FORBIDDEN: Final = (
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
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns,`",
    ),
)
"""Setting below /proc/sys, the value that forbids, what that means, what to do."""


def is_root(proc: str = "/proc") -> bool:
    """True for root of the machine; root in a user namespace can do less."""
    return os.geteuid() == 0 and is_first_user_namespace(Path(proc))


def is_first_user_namespace(proc: Path = Path("/proc")) -> bool:
    """True where every user is mapped to itself."""
    try:
        return (proc / "self" / "uid_map").read_text().split() == ["0", "0", "4294967295"]
    except OSError:
        return True


def outer_uid(proc: Path = Path("/proc")) -> int:
    """Return this user's number in the user namespace around this one."""
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
    """A bit for each capability that this process has now; all where /proc does not say."""
    try:
        status = Path(proc, "self", "status").read_text()
    except OSError:
        return -1
    return next(
        (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), -1
    )


def lacking(capabilities: int) -> dict[str, str]:
    """Capability → what it is for, of those that a lab needs and that are not among these."""
    return {
        name: entry.purpose
        for name, entry in NEEDED.items()
        if not capabilities >> entry.number & 1
    }


def has_mounted_root(proc: Path = Path("/proc")) -> bool:
    """Return False in a plain chroot: what is mounted below its directory may show up outside, so nothing can be mounted there.

    Source: fs/namespace.c do_change_type(): EINVAL where the path is no mount point (6.12).
    """
    try:
        mounts = (proc / "self" / "mountinfo").read_text().splitlines()
    except OSError:
        return True
    return any(line.split(" ", 5)[4] == "/" for line in mounts)


ROOT_NOT_MOUNTED: Final = "the root directory is not a mount point: this is a plain chroot"
MOUNT_ROOT: Final = "mount --bind DIR DIR before chroot DIR; or systemd-nspawn -D DIR, or unshare --mount --root DIR"


def require_permissions() -> None:
    """Raises RequirementError, naming all that root lacks here; whether an ordinary user may have namespaces shows when they are made."""
    if not has_mounted_root():
        raise RequirementError(f"{ROOT_NOT_MOUNTED}\n  → {MOUNT_ROOT}\n  see kubenetlab doctor")
    missing = lacking(effective_capabilities()) if os.geteuid() == 0 else {}
    if missing:
        lines = "".join(f"\n  {name}: {purpose}" for name, purpose in missing.items())
        raise RequirementError(
            f"root lacks permissions here that a lab needs{lines}\n  → {remedy(errno.EPERM)}\n  see kubenetlab doctor"
        )


def remedy(number: int = 0, proc: str = "/proc") -> str:
    """What to do where namespaces were refused with an errno: what forbids them, as far as it can be found."""
    if number == errno.ENOSPC:
        return "a limit of namespaces is reached: kubenetlab doctor shows user.max_…_namespaces"
    if os.geteuid() == 0:
        return f"in a container: {_IN_A_CONTAINER}"
    for setting, value, meaning, what_to_do in _FORBIDDEN:
        try:
            if Path(proc, "sys", setting).read_text().strip() == value:
                return f"{meaning}: {what_to_do}; or run as root (sudo)"
        except OSError:
            continue
    return f"run as root (sudo); in a container: {_IN_A_CONTAINER}"

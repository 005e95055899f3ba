"""File systems of programs inside a sandbox: a mount namespace of their own, with the pod's /proc, /sys and files in /etc.

Three kinds of programs differ in what they see of the machine:

    container's command   files read-only, without home directories; /run, /tmp, /var and /dev of its own
    exec, shell           the same, and settings of the pod's network that can be written
    with --host-files     the machine's files as they are

Directories of a program's own are empty at first, but for the usual devices, and end with it.
Source: mount_setattr(2), mount_namespaces(7); net/sysctl_net.c net_ctl_permissions(), ensure_safe_net_sysctl().
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kubenetlab.kernel.namespaces.unshare import keep_mounts_apart, keep_mounts_here, mount_proc
from kubenetlab.kernel.syscalls import (
    CLONE_NEWNS,
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    make_read_only,
    mount,
    unshare,
)

_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n"
_NSSWITCH_FILE = "/etc/nsswitch.conf"
_MACHINE_RESOLVERS = ("/run/nscd", "/run/systemd/resolve", "/var/run/nscd")
OWN_DIRECTORIES = {"/run": 0o755, "/tmp": 0o1777, "/var": 0o755}
"""Directories that a container has for itself, and their modes."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_TOOL_DEVICES = ("net/tun",)
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
_MACHINES = ("/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
"""Parts of /proc that belong to the whole machine: read-only, as is /proc/sys."""
_NETWORK_SETTINGS, _LINK_SETTINGS = "/proc/sys/net", "/sys/devices/virtual/net"
"""Settings of the network namespace and of its links."""
_MACHINES_IN_NETWORK = ("/proc/sys/net/netfilter/nf_hooks_lwtunnel",)
"""Settings of the whole machine that Linux lets each network namespace write: the only one, when all 564 of Linux 6.18 were written.

Since 5.13 Linux makes others read-only there (net/sysctl_net.c ensure_safe_net_sysctl()).
"""
_HIDDEN = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kmsg")
_SYSTEM = frozenset(
    (
        "bin",
        "boot",
        "dev",
        "etc",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "nix",
        "proc",
        "sbin",
        "sys",
        "usr",
    )
)
"""Directories of / that programs need, and below which no home directory is hidden."""
_IN_VAR = {
    "cache": 0o755,
    "lib": 0o755,
    "local": 0o755,
    "log": 0o755,
    "mail": 0o755,
    "opt": 0o755,
    "spool": 0o755,
    "tmp": 0o1777,
}


def host_files(hosts: str, resolv_conf: str, scratch: str) -> None:
    """Prepare for a program of `--host-files`: the machine's files, but for the pod's in /etc, and without the machine's resolvers.

    scratch: a directory that is hidden, in this mount namespace only, behind the files for /etc.
    """
    unshare(CLONE_NEWNS)
    keep_mounts_here()
    mount_proc()
    try:
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:
        _say(f"/sys stays this machine's: {error.strerror}")
    mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NODEV)
    masks = {
        os.path.realpath(directory): f"{scratch}/mask{number}"
        for number, directory in enumerate(_MACHINE_RESOLVERS)
    }
    for mask in masks.values():
        os.mkdir(mask, 0o755)
    for target, text in _etc(hosts, resolv_conf):
        real = os.path.realpath(target)
        mask = masks.get(
            os.path.dirname(real), ""
        )  # systemd-resolved's /etc/resolv.conf leads there
        path = (
            f"{mask}/{os.path.basename(real)}" if mask else f"{scratch}/{os.path.basename(target)}"
        )
        _write(path, text)
        if not mask and os.path.exists(real):
            mount(path, real, flags=MS_BIND)
        elif not mask and target != _NSSWITCH_FILE:
            _say(f"this machine has no {target}: programs inside will not find the pod's")
    for directory, mask in masks.items():
        if os.path.isdir(directory):
            mount(mask, directory, flags=MS_BIND)


def container(hosts: str, resolv_conf: str, hidden: Iterable[str]) -> None:
    """Prepare for a container's command.

    hidden: directories that are empty for it; missing ones, and those that hold the system, are left out.
    """
    _own_files(hosts, resolv_conf, hidden)


def tool(hosts: str, resolv_conf: str, hidden: Iterable[str]) -> None:
    """Prepare for a program of `exec` or `shell`. Hidden directories are as for `container`."""
    missing = _own_files(hosts, resolv_conf, hidden, is_tool=True)
    for target in missing:
        _say(f"this machine has no {target}: programs inside will not find the pod's")


def _own_files(
    hosts: str, resolv_conf: str, hidden: Iterable[str], *, is_tool: bool = False
) -> list[str]:
    """Mount what a program has for itself; return the files of /etc that have no place here."""
    private = {
        **OWN_DIRECTORIES,
        **{place: 0o755 for directory in hidden if (place := _hideable(directory))},
    }
    places = {
        target: os.path.realpath(target) for target, _ in _etc(hosts, resolv_conf)
    }  # before what they may lead into is hidden
    unshare(CLONE_NEWNS)
    keep_mounts_apart()  # what the machine mounts later would not be read-only
    make_read_only("/")
    mount_proc()
    _mount_sys(is_tool=is_tool)
    _protect_proc(is_tool=is_tool)
    missing = []
    with _any_mode():
        for directory, mode in private.items():
            if os.path.isdir(directory) and not os.path.islink(directory):
                mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV)
                os.chmod(directory, mode)
        for name, mode in _IN_VAR.items():
            os.mkdir(f"/var/{name}", mode)
        os.symlink("/run", "/var/run")
        os.makedirs("/run/lock", 0o1777)
        os.symlink("/run/lock", "/var/lock")
        os.mkdir("/run/.kubenetlab", 0o755)
        _devices("/run/.kubenetlab/dev", (*_DEVICES, *(_TOOL_DEVICES if is_tool else ())))
        for target, text in _etc(hosts, resolv_conf):
            real = places[target]
            if real.startswith(("/run/", "/var/")):
                os.makedirs(os.path.dirname(real), exist_ok=True)
                _write(real, text)
            elif os.path.exists(real):
                path = f"/run/.kubenetlab/{os.path.basename(target)}"
                _write(path, text)
                mount(path, real, flags=MS_BIND)
            elif target != _NSSWITCH_FILE:
                missing.append(target)
    return missing


def _mount_sys(*, is_tool: bool) -> None:
    """Mount a read-only /sys that shows the links of this network namespace; a tool may write the settings of these links."""
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    try:
        if is_tool and _is_mounted("sysfs", "/sys", flags):
            if os.path.isdir(_LINK_SETTINGS):
                mount(_LINK_SETTINGS, _LINK_SETTINGS, flags=MS_BIND)
            make_read_only("/sys", is_recursive=False)
        else:
            mount("sysfs", "/sys", "sysfs", flags | MS_RDONLY)
    except OSError:
        pass  # a sandbox around the lab forbids it: the machine's stays, read-only


def _is_mounted(kind: str, target: str, flags: int) -> bool:
    """Try to mount a file system; return False where that is refused."""
    try:
        mount(kind, target, kind, flags)
    except OSError:
        return False
    return True


def _protect_proc(*, is_tool: bool) -> None:
    """Hide the machine's secrets in /proc, and make its settings read-only; a tool may write those of its network namespace."""
    if is_tool and os.path.isdir(_NETWORK_SETTINGS):
        mount(_NETWORK_SETTINGS, _NETWORK_SETTINGS, flags=MS_BIND)
        _make_read_only(_MACHINES_IN_NETWORK)
    mount("/proc/sys", "/proc/sys", flags=MS_BIND | MS_REC)
    make_read_only("/proc/sys", is_recursive=not is_tool)
    _make_read_only(_MACHINES)
    for path in _HIDDEN:
        if os.path.exists(path):
            mount("/dev/null", path, flags=MS_BIND)


def _make_read_only(paths: Iterable[str]) -> None:
    for path in paths:
        if os.path.exists(path):
            mount(path, path, flags=MS_BIND | MS_REC)
            make_read_only(path)


def _hideable(directory: str) -> str:
    """Return the place of a directory that can be hidden; nothing for one that holds the system, or lies in a hidden one already."""
    real = os.path.realpath(directory)
    top = real.split("/")[1]
    return (
        real
        if top and top not in _SYSTEM and f"/{top}" not in OWN_DIRECTORIES and os.path.isdir(real)
        else ""
    )


def _devices(scratch: str, names: Iterable[str]) -> None:
    """A /dev with what every program may expect, and none of this machine's disks and terminals. It is made in `scratch` and moved."""
    os.mkdir(scratch)
    mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k")
    for name in names:
        if os.path.exists(f"/dev/{name}"):
            os.makedirs(os.path.dirname(f"{scratch}/{name}"), 0o755, exist_ok=True)
            _write(f"{scratch}/{name}", "")
            mount(f"/dev/{name}", f"{scratch}/{name}", flags=MS_BIND)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{scratch}/{name}")
    os.mkdir(f"{scratch}/shm")
    mount("tmpfs", f"{scratch}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    os.mkdir(f"{scratch}/pts")
    try:
        mount(
            "devpts",
            f"{scratch}/pts",
            "devpts",
            MS_NOSUID | MS_NOEXEC,
            "newinstance,ptmxmode=0666,mode=0620",
        )
        os.symlink("pts/ptmx", f"{scratch}/ptmx")
    except OSError:
        pass  # a sandbox around the lab forbids it: no terminals
    mount(scratch, "/dev", flags=MS_MOVE)


def _etc(hosts: str, resolv_conf: str) -> tuple[tuple[str, str], ...]:
    return ("/etc/hosts", hosts), ("/etc/resolv.conf", resolv_conf), (_NSSWITCH_FILE, _NSSWITCH)


@contextmanager
def _any_mode() -> Iterator[None]:
    """Lets modes be what they are said to be."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def _write(path: str, text: str) -> None:
    with open(path, "w") as stream:
        stream.write(text)
    os.chmod(path, 0o644)


def _say(text: str) -> None:
    print(f"kubenetlab: {text}", file=sys.stderr, flush=True)

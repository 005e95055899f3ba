"""What programs inside a sandbox find in the file system: a mount namespace of their own, with the pod's /proc, /sys and files in /etc.

A program that somebody runs there sees this machine's files as they are. A container's command sees them read-only, and has a /run,
/tmp, /var and /dev of its own, which are empty (but for the usual devices) and go with it.
Source: mount_setattr(2), mount_namespaces(7).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kubenetlab.kernel.namespaces import keep_mounts_here, mount_proc
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
_MACHINE_RESOLVERS = ("/run/nscd", "/run/systemd/resolve", "/var/run/nscd")
_OWN = {"/run": 0o755, "/tmp": 0o1777, "/var": 0o755}
"""Directories that a container has for itself, and their modes."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
_MACHINES = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
"""What in /proc belongs to the whole machine: to be read only."""
_HIDDEN = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kmsg")
_IN_VAR = {"cache": 0o755, "lib": 0o755, "local": 0o755, "log": 0o755, "mail": 0o755, "opt": 0o755, "spool": 0o755, "tmp": 0o1777}


def pods_files(hosts: str, resolv_conf: str, scratch: str) -> None:
    """For a program that somebody runs inside. `scratch` is a directory that is hidden, in this mount namespace only, behind the files
    that are put over those in /etc."""
    _leave()
    mount_proc()
    try:
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:
        _say(f"/sys stays this machine's: {error.strerror}")
    mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NODEV)
    masks = {os.path.realpath(directory): f"{scratch}/mask{number}" for number, directory in enumerate(_MACHINE_RESOLVERS)}
    for mask in masks.values():
        os.mkdir(mask, 0o755)
    for target, text in _etc(hosts, resolv_conf):
        real = os.path.realpath(target)
        mask = masks.get(os.path.dirname(real), "")  # systemd-resolved's /etc/resolv.conf leads there
        path = f"{mask}/{os.path.basename(real)}" if mask else f"{scratch}/{os.path.basename(target)}"
        _write(path, text)
        if not mask and os.path.exists(real):
            mount(path, real, flags=MS_BIND)
        elif not mask and target != "/etc/nsswitch.conf":
            _say(f"this machine has no {target}: programs inside will not find the pod's")
    for directory, mask in masks.items():
        if os.path.isdir(directory):
            mount(mask, directory, flags=MS_BIND)


def container(hosts: str, resolv_conf: str) -> None:
    """For a container's command."""
    places = {target: os.path.realpath(target) for target, _ in _etc(hosts, resolv_conf)}  # before what they may lead into is hidden
    _leave()
    make_read_only("/")
    mount_proc()
    for path in _MACHINES:
        if os.path.exists(path):
            mount(path, path, flags=MS_BIND | MS_REC)
            make_read_only(path)
    for path in _HIDDEN:
        if os.path.exists(path):
            mount("/dev/null", path, flags=MS_BIND)
    try:
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    except OSError:
        pass  # a sandbox around the lab forbids it: this machine's stays
    with _any_mode():
        for directory, mode in _OWN.items():
            if os.path.isdir(directory) and not os.path.islink(directory):
                mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV)
                os.chmod(directory, mode)
        for name, mode in _IN_VAR.items():
            os.mkdir(f"/var/{name}", mode)
        os.symlink("/run", "/var/run")
        os.makedirs("/run/lock", 0o1777)
        os.symlink("/run/lock", "/var/lock")
        os.mkdir("/run/.kubenetlab", 0o755)
        _devices("/run/.kubenetlab/dev")
        for target, text in _etc(hosts, resolv_conf):
            real = places[target]
            if real.startswith(("/run/", "/var/")):
                os.makedirs(os.path.dirname(real), exist_ok=True)
                _write(real, text)
            elif os.path.exists(real):
                path = f"/run/.kubenetlab/{os.path.basename(target)}"
                _write(path, text)
                mount(path, real, flags=MS_BIND)


def _devices(scratch: str) -> None:
    """A /dev with what every program may expect, and none of this machine's disks and terminals. It is made in `scratch` and moved."""
    os.mkdir(scratch)
    mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k")
    for name in _DEVICES:
        if os.path.exists(f"/dev/{name}"):
            _write(f"{scratch}/{name}", "")
            mount(f"/dev/{name}", f"{scratch}/{name}", flags=MS_BIND)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{scratch}/{name}")
    os.mkdir(f"{scratch}/shm")
    mount("tmpfs", f"{scratch}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    os.mkdir(f"{scratch}/pts")
    try:
        mount("devpts", f"{scratch}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
        os.symlink("pts/ptmx", f"{scratch}/ptmx")
    except OSError:
        pass  # a sandbox around the lab forbids it: no terminals
    mount(scratch, "/dev", flags=MS_MOVE)


def _etc(hosts: str, resolv_conf: str) -> tuple[tuple[str, str], ...]:
    return ("/etc/hosts", hosts), ("/etc/resolv.conf", resolv_conf), ("/etc/nsswitch.conf", _NSSWITCH)


def _leave() -> None:
    unshare(CLONE_NEWNS)
    keep_mounts_here()


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

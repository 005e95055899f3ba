"""Mount namespaces of programs inside a sandbox: the pod's /proc, /sys and files in /etc.

What a program sees of the machine's files depends on how it was started:

    container command     read-only, no home directories; own /run, /tmp, /var and /dev
    exec, shell           the same, plus writable sysctls of the pod's network
    daemon of a node      the same, plus the node's files
    exec, shell on a node the same, plus the node's files
    CNI plugins           the same with home directories and the node's own files
    with --host-files     as they are

A node's files are in a directory of the lab, as a tree. Each directory below its /etc, /opt, /run
and /var replaces the machine's directory of that name. A program's own directories are empty at
first, except for the usual devices, and are removed when the program ends.

Source: mount_setattr(2), mount_namespaces(7); net/sysctl_net.c net_ctl_permissions(),
ensure_safe_net_sysctl().
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kubenetlab.kernel.namespaces import own_directories
from kubenetlab.kernel.namespaces.unshare import (
    keep_mounts_apart,
    mount_proc,
    stop_mount_propagation,
)
from kubenetlab.kernel.syscalls import (
    CLONE_NEWNS,
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    attach_mount,
    clone_mount,
    make_read_only,
    mount,
    unshare,
)

_NSSWITCH = (
    "passwd: files\ngroup: files\nhosts: files dns\n"
    "networks: files\nprotocols: files\nservices: files\n"
)
_NSSWITCH_FILE = "/etc/nsswitch.conf"
_MACHINE_RESOLVERS = ("/run/nscd", "/run/systemd/resolve", "/var/run/nscd")
OWN_DIRECTORIES = {"/run": 0o755, "/tmp": 0o1777, "/var": 0o755}
"""Directories that every container has for itself, with their modes."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_EXTRA_TOOL_DEVICES = ("net/tun",)
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
_MACHINE_SETTINGS = ("/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
"""Parts of /proc that affect the whole machine; made read-only, like /proc/sys."""
_NETWORK_SETTINGS, _LINK_SETTINGS = "/proc/sys/net", "/sys/devices/virtual/net"
"""Sysctls of the network namespace; attributes of its links."""
_MACHINE_SETTINGS_IN_NETWORK = ("/proc/sys/net/netfilter/nf_hooks_lwtunnel",)
"""Settings of the whole machine that Linux lets every network namespace write.

This is the only one among the 564 of Linux 6.18, found by writing each. Since 5.13 Linux makes
others read-only there (net/sysctl_net.c ensure_safe_net_sysctl())."""
_HIDDEN_PROC_FILES = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kmsg")
_SYSTEM_DIRECTORIES = frozenset(
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
"""Top-level directories that programs need; no home directory below them is hidden."""
_VAR_DIRECTORIES = {
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
    """Prepare the mounts for a program started with --host-files.

    The program sees the machine's files, except that the pod's files replace those in /etc and the
    sockets of the machine's resolvers are hidden.

    scratch: directory for the replacements; hidden in this mount namespace only.
    """
    unshare(CLONE_NEWNS)
    stop_mount_propagation()
    mount_proc()
    try:
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:
        _warn(f"programs inside see this machine's /sys: cannot mount another: {error.strerror}")
    mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NODEV)
    replacements = {
        os.path.realpath(directory): f"{scratch}/mask{number}"
        for number, directory in enumerate(_MACHINE_RESOLVERS)
    }
    for replacement in replacements.values():
        os.mkdir(replacement, 0o755)
    for target, text in _etc_files(hosts, resolv_conf):
        real = os.path.realpath(target)
        # The /etc/resolv.conf of systemd-resolved is a link into such a directory.
        replacement = replacements.get(os.path.dirname(real), "")
        path = (
            f"{replacement}/{os.path.basename(real)}"
            if replacement
            else f"{scratch}/{os.path.basename(target)}"
        )
        _write_file(path, text)
        if not replacement and os.path.exists(real):
            mount(path, real, flags=MS_BIND)
        elif not replacement and target != _NSSWITCH_FILE:
            _warn_no_place(target)
    for directory, replacement in replacements.items():
        if os.path.isdir(directory):
            mount(replacement, directory, flags=MS_BIND)


def container(hosts: str, resolv_conf: str, hidden: Iterable[str]) -> None:
    """Prepare the mounts for a container's command.

    hidden: directories to replace by empty ones; directories that do not exist or belong to the
        system are ignored.
    """
    _mount_own_files(hosts, resolv_conf, hidden)


def tool(hosts: str, resolv_conf: str, hidden: Iterable[str], tree: str = "") -> None:
    """Prepare the mounts for a program of `exec` or `shell`, or for a daemon.

    hidden: as for `container`.
    tree: directory of the sandbox's own files, if there is one.
    """
    missing = _mount_own_files(hosts, resolv_conf, hidden, tree, is_tool=True)
    for target in missing:
        _warn_no_place(target)


def network_plugins(hidden: Iterable[str], tree: str, programs: Iterable[str]) -> None:
    """Prepare the mounts for the CNI plugins of a node.

    hidden, tree: as for `tool`.
    programs: directories of plugins, which they see wherever these are.
    """
    clones = {path: clone_mount(path) for path in programs if os.path.isdir(path)}
    _mount_own_files("", "", hidden, tree, is_tool=True)
    for path, clone in clones.items():
        if os.path.isdir(path):
            os.close(clone)
            continue
        os.makedirs(path)
        attach_mount(clone, path)
        make_read_only(path)


def _mount_own_files(
    hosts: str, resolv_conf: str, hidden: Iterable[str], tree: str = "", *, is_tool: bool = False
) -> list[str]:
    """Mount a program's own directories; return the files of /etc that the machine lacks."""
    private = {
        **OWN_DIRECTORIES,
        **{path: 0o755 for directory in hidden if (path := _hideable_path(directory))},
    }
    # Links are resolved before the directories that they may point into are hidden.
    paths = {target: os.path.realpath(target) for target, _ in _etc_files(hosts, resolv_conf)}
    unshare(CLONE_NEWNS)
    keep_mounts_apart()  # mounts that the machine adds later would be writable here
    own_mounts = own_directories.clone(tree)  # writable, and before /run is hidden
    make_read_only("/")
    mount_proc()
    _mount_sys(is_tool=is_tool)
    _protect_proc(is_tool=is_tool)
    missing = []
    with _no_umask():
        for directory, mode in private.items():
            if os.path.isdir(directory) and not os.path.islink(directory):
                mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV)
                os.chmod(directory, mode)
        for name, mode in _VAR_DIRECTORIES.items():
            os.mkdir(f"/var/{name}", mode)
        os.symlink("/run", "/var/run")
        os.makedirs("/run/lock", 0o1777)
        os.symlink("/run/lock", "/var/lock")
        os.mkdir("/run/.kubenetlab", 0o755)
        _mount_dev("/run/.kubenetlab/dev", (*_DEVICES, *(_EXTRA_TOOL_DEVICES if is_tool else ())))
        for target, text in _etc_files(hosts, resolv_conf):
            real = paths[target]
            if real.startswith(("/run/", "/var/")):
                os.makedirs(os.path.dirname(real), exist_ok=True)
                _write_file(real, text)
            elif os.path.exists(real):
                replacement = f"/run/.kubenetlab/{os.path.basename(target)}"
                _write_file(replacement, text)
                mount(replacement, real, flags=MS_BIND)
            elif target != _NSSWITCH_FILE:
                missing.append(target)
        own_directories.attach(own_mounts, "/run/.kubenetlab")
    return missing


def _mount_sys(*, is_tool: bool) -> None:
    """Mount a read-only /sys that shows the links of this network namespace.

    is_tool: True for a program of `exec` or `shell`, which may write the attributes of these links.
    """
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    try:
        if is_tool and _try_mount("sysfs", "/sys", flags):
            if os.path.isdir(_LINK_SETTINGS):
                mount(_LINK_SETTINGS, _LINK_SETTINGS, flags=MS_BIND)
            make_read_only("/sys", is_recursive=False)
        else:
            mount("sysfs", "/sys", "sysfs", flags | MS_RDONLY)
    except OSError:
        pass  # a sandbox around the lab forbids it: the machine's /sys stays, read-only


def _try_mount(kind: str, target: str, flags: int) -> bool:
    """Try to mount a file system; return False if the kernel refuses."""
    try:
        mount(kind, target, kind, flags)
    except OSError:
        return False
    return True


def _protect_proc(*, is_tool: bool) -> None:
    """Hide the machine's secrets in /proc and make its settings read-only.

    A tool may write the sysctls of its network namespace.
    """
    if is_tool and os.path.isdir(_NETWORK_SETTINGS):
        mount(_NETWORK_SETTINGS, _NETWORK_SETTINGS, flags=MS_BIND)
        _make_read_only(_MACHINE_SETTINGS_IN_NETWORK)
    mount("/proc/sys", "/proc/sys", flags=MS_BIND | MS_REC)
    make_read_only("/proc/sys", is_recursive=not is_tool)
    _make_read_only(_MACHINE_SETTINGS)
    for path in _HIDDEN_PROC_FILES:
        if os.path.exists(path):
            mount("/dev/null", path, flags=MS_BIND)


def _make_read_only(paths: Iterable[str]) -> None:
    for path in paths:
        if os.path.exists(path):
            mount(path, path, flags=MS_BIND | MS_REC)
            make_read_only(path)


def _hideable_path(directory: str) -> str:
    """Return the real path of a directory that can be hidden.

    Return an empty string if the directory does not exist, belongs to the system or lies in a
    directory that is hidden already.
    """
    real = os.path.realpath(directory)
    top = real.split("/")[1]
    return (
        real
        if top
        and top not in _SYSTEM_DIRECTORIES
        and f"/{top}" not in OWN_DIRECTORIES
        and os.path.isdir(real)
        else ""
    )


def _mount_dev(scratch: str, names: Iterable[str]) -> None:
    """Mount a /dev with the usual devices, without the machine's disks and terminals.

    scratch: where it is built before it is moved to /dev.
    """
    os.mkdir(scratch)
    mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k")
    for name in names:
        if os.path.exists(f"/dev/{name}"):
            os.makedirs(os.path.dirname(f"{scratch}/{name}"), 0o755, exist_ok=True)
            _write_file(f"{scratch}/{name}", "")
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
        pass  # a sandbox around the lab forbids it: no pseudo-terminals
    mount(scratch, "/dev", flags=MS_MOVE)


def _etc_files(hosts: str, resolv_conf: str) -> tuple[tuple[str, str], ...]:
    return ("/etc/hosts", hosts), ("/etc/resolv.conf", resolv_conf), (_NSSWITCH_FILE, _NSSWITCH)


@contextmanager
def _no_umask() -> Iterator[None]:
    """Clear the umask for the block, so that files get exactly the requested modes."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def _write_file(path: str, text: str) -> None:
    with open(path, "w") as stream:
        stream.write(text)
    os.chmod(path, 0o644)


def _warn_no_place(target: str) -> None:
    _warn(f"this machine has no {target}: programs inside do not see the pod's {target}")


def _warn(text: str) -> None:
    print(f"kubenetlab: {text}", file=sys.stderr, flush=True)

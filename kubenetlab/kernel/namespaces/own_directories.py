"""Mounts of a node's own files over those of the machine.

A node has a directory of the lab as a tree of its own. Each directory below its /etc, /opt, /run
and /var replaces the machine's directory of that name, for one program and in its mount namespace:

    /run/kubenetlab/LAB/files/node_worker/etc/bird  →  /etc/bird
                                          run/bird  →  /run/bird
    /run/kubenetlab/LAB/files/node_worker.logs      →  /var/log, read-only

Source: mount_namespaces(7), open_tree(2), move_mount(2).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Final

from kubenetlab.kernel.syscalls import (
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOSUID,
    MS_REC,
    attach_mount,
    clone_mount,
    make_read_only,
    mount,
)

_LOGS: Final = "/var/log"


def clone(tree: str) -> dict[str, int]:
    """Return a detached mount of each directory in a tree, by the directory that it replaces.

    tree: path of the tree; it need not exist, and is empty for a sandbox that has none.
    """
    mounts: dict[str, int] = {}
    for top in _directories(tree) if tree else ():
        for name in _directories(f"{tree}/{top}"):
            mounts[f"/{top}/{name}"] = clone_mount(f"{tree}/{top}/{name}")
    if tree and os.path.isdir(logs_of(tree)):
        mounts[_LOGS] = clone_mount(logs_of(tree))
    return mounts


def attach(mounts: Mapping[str, int], scratch: str) -> None:
    """Attach the mounts of `clone` in this mount namespace.

    scratch: an empty directory on a writable file system.
    """
    for parent, targets in groupby(sorted(mounts), os.path.dirname):
        missing = []
        for target in (paths := list(targets)):
            try:
                os.makedirs(target, 0o755, exist_ok=True)
            except OSError:  # a read-only file system
                missing.append(os.path.basename(target))
        if missing:
            _add_directories(parent, missing, f"{scratch}{parent}")
        for target in paths:
            attach_mount(mounts[target], target)
            if target == _LOGS:
                make_read_only(target)


def logs_of(tree: str) -> str:
    """Return the directory with the logs of the sandbox that has this tree."""
    return f"{tree}.logs"


def _directories(path: str) -> list[str]:
    """Return the names of the directories in a directory, which need not exist."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _add_directories(path: str, names: Iterable[str], scratch: str) -> None:
    """Replace a read-only directory by one with the same entries and further directories.

    Bind mounts rather than links, because relative links inside the entries have to work.
    """
    os.makedirs(scratch)
    mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    with os.scandir(path) as entries:
        for entry in entries:
            copy = f"{scratch}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), copy)
                continue
            if entry.is_dir():
                os.mkdir(copy)
            else:
                os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
            mount(entry.path, copy, flags=MS_BIND | MS_REC)
    for name in names:
        os.mkdir(f"{scratch}/{name}", 0o755)
    make_read_only(scratch, is_recursive=False)
    mount(scratch, path, flags=MS_MOVE)

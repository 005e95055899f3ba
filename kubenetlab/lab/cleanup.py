"""Claim the run directory of a new lab, and remove what dead labs left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from kubenetlab.errors import KubenetlabError, LabError
from kubenetlab.lab import rundir

SWEEP_TIMEOUT_S = 10.0
"""Time allowed for another command to finish making or removing the lab, in seconds."""
LOCK_INTERVAL_S: Final = 0.01
"""Time between two attempts to lock a run directory, in seconds.

flock(2) has no timeout: a call that waits could only be ended by a signal.
"""


def claim(lab: str) -> int:
    """Create the run directory of a lab, empty and locked, and return a descriptor of it.

    Closing the descriptor releases the lock: when the lab has been created, or its creation failed.
    Raises LabError if the lab is up, or if another command holds the lock.
    """
    directory = rundir.run_directory(lab)
    while True:
        try:
            rundir.base_directory().mkdir(
                mode=0o755 if rundir.owns_run() else 0o700, parents=True, exist_ok=True
            )
            directory.mkdir(mode=0o700, exist_ok=True)
        except FileNotFoundError:
            continue  # another command has just removed the empty base directory
        except OSError as error:
            raise rundir.unusable_error(directory, error.strerror or str(error)) from None
        lock = _lock(directory, 0.0)
        if lock is None:
            continue
        if rundir.is_alive(lab):
            os.close(lock)
            raise LabError(f"lab {lab} is up already; see: kubenetlab list")
        _empty(directory)
        return lock


def remove_dead_lab(lab: str, held: int | None = None) -> bool:
    """Remove the run directory of a dead lab and its links in /run/netns.

    Return False, and change nothing, if the lab is alive.

    held: a descriptor returned by `claim`, which is closed here; None if there is none.
    Raises LabError if another command holds the directory for longer than SWEEP_TIMEOUT_S.
    """
    directory = rundir.run_directory(lab)
    if held is None:
        held = _lock(directory, SWEEP_TIMEOUT_S)
    if held is not None:
        try:
            if rundir.is_alive(lab):
                return False
            _empty(directory)
            directory.rmdir()
        finally:
            os.close(held)
    remove_remains([lab])
    try:
        directory.parent.rmdir()
    except OSError:
        pass  # not empty: other labs have run directories
    return True


def remove_remains(dead: Sequence[str]) -> None:
    """Remove what dead labs left outside their run directories.

    These are cgroups, uplinks, and links in /run/netns, whose pids may belong to other processes by
    now.
    """
    for lab in dead:
        _remove_cgroups(rundir.run_directory(lab))
        # `down` of that lab reports the error; commands for other labs continue.
        with suppress(KubenetlabError, OSError):
            _remove_uplink(lab)
    if not rundir.owns_run() or not dead or not os.path.isdir(rundir.RUN_NETNS):
        return
    prefixes = tuple(f"{lab}_" for lab in dead)
    for link in os.scandir(rundir.RUN_NETNS):
        if link.name.startswith(prefixes) and link.is_symlink():
            try:
                os.unlink(link.path)
            except FileNotFoundError:
                pass  # removed by another command


def _lock(directory: Path, timeout_s: float) -> int | None:
    """Lock a directory and return a descriptor of it; None if the directory does not exist.

    Raises LabError if another command holds the lock until the timeout.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another command may have replaced the directory before it was locked.
            if os.path.samestat(os.fstat(descriptor), os.stat(directory)):
                return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise LabError(
                    f"another command is creating or removing lab {directory.name}; try again"
                ) from None
            time.sleep(LOCK_INTERVAL_S)
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _remove_uplink(lab: str) -> None:
    """Remove the machine's part of a lab's uplink, if the lab has one."""
    if (rundir.run_directory(lab) / rundir.UPLINK).exists():
        from kubenetlab.lab import uplink  # imported here because few labs have one

        uplink.remove_from_machine(lab)


def _remove_cgroups(directory: Path) -> None:
    """Remove the cgroups of a dead lab, if it created any."""
    if (directory / rundir.CGROUPS).exists():
        from kubenetlab.lab.runtime.container_limits import remove_groups

        remove_groups(directory)


def _empty(directory: Path) -> None:
    """Remove everything that a dead lab left, except its run directory itself."""
    _remove_uplink(directory.name)
    _remove_cgroups(directory)
    for entry in directory.iterdir():
        if stat.S_ISDIR(entry.lstat().st_mode):
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)

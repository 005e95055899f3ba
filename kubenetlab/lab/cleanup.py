"""Claim the run directory of a new lab, and remove what dead labs left behind."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kubenetlab.errors import KubenetlabError, LabError
from kubenetlab.lab import rundir

SWEEP_TIMEOUT_S = 10.0
"""Time allowed for another command to finish making or removing the lab, in seconds."""


def claim(lab: str) -> int:
    """The run directory, empty, its owner's alone, and held: a descriptor to be closed when the lab is made or given up.

    Raises LabError when the lab is up, or somebody else holds its directory.
    """
    directory = rundir.of(lab)
    while True:
        try:
            rundir.base().mkdir(
                mode=0o755 if rundir.owns_run() else 0o700, parents=True, exist_ok=True
            )
            directory.mkdir(mode=0o700, exist_ok=True)
        except FileNotFoundError:
            continue  # the last lab beside us has just taken the base away
        except OSError as error:
            raise rundir.unusable(directory, error.strerror or str(error)) from None
        held = _hold(directory, 0.0)
        if held is None:
            continue
        if rundir.is_alive(lab):
            os.close(held)
            raise LabError(f"lab {lab} is up already")
        _empty(directory)
        return held


def sweep(lab: str, held: int | None = None) -> bool:
    """Removes what a dead lab left behind: its run directory, and its links in /run/netns that lead nowhere.

    `held` is a claim of ours, which ends here. Returns False, having done nothing, when the lab lives. Raises LabError when
    somebody holds the directory for long.
    """
    directory = rundir.of(lab)
    if held is None:
        held = _hold(directory, SWEEP_TIMEOUT_S)
    if held is not None:
        try:
            if rundir.is_alive(lab):
                return False
            _empty(directory)
            directory.rmdir()
        finally:
            os.close(held)
    clear_links([lab])
    try:
        directory.parent.rmdir()
    except OSError:
        pass  # other labs are there
    return True


def clear_links(dead: Sequence[str]) -> None:
    """Removes what labs that are dead have left outside their directories: links in /run/netns, which lead nowhere, or to whoever has the
    number now, and what an uplink needed of the machine."""
    for lab in dead:
        _remove_cgroups(rundir.of(lab))
        with suppress(
            KubenetlabError, OSError
        ):  # `down` of that lab says what is in the way; other labs' commands go on
            _take_uplink_away(lab)
    if not rundir.owns_run() or not dead or not os.path.isdir(rundir.RUN_NETNS):
        return
    prefixes = tuple(f"{lab}_" for lab in dead)
    for link in os.scandir(rundir.RUN_NETNS):
        if link.name.startswith(prefixes) and link.is_symlink():
            try:
                os.unlink(link.path)
            except FileNotFoundError:
                pass  # another command did it


def _hold(directory: Path, timeout_s: float) -> int | None:
    """A descriptor of the directory, locked; None when there is no such directory (any more). Raises LabError when others hold it."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(held), os.stat(directory)):
                return held
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(held)
                raise LabError(
                    f"lab {directory.name} is being made by somebody else at this moment"
                ) from None
            time.sleep(0.01)
        except FileNotFoundError:
            pass
        os.close(held)


def _take_uplink_away(lab: str) -> None:
    """What a lab has on the machine itself, if anything."""
    if (rundir.of(lab) / rundir.UPLINK).exists():
        from kubenetlab.lab import uplink  # few labs have one

        uplink.take_away(lab)


def _remove_cgroups(directory: Path) -> None:
    """Remove the cgroups of a dead lab, if it has made any."""
    if (directory / rundir.CGROUPS).exists():
        from kubenetlab.lab.runtime.container_limits import remove_groups

        remove_groups(directory)


def _empty(directory: Path) -> None:
    _take_uplink_away(directory.name)
    _remove_cgroups(directory)
    for entry in directory.iterdir():
        if stat.S_ISDIR(entry.lstat().st_mode):
            entry.rmdir()
        else:
            entry.unlink(missing_ok=True)

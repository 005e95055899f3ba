"""UID and GID maps of an ordinary user's user namespace.

Root inside is the user outside. Further IDs come from the ranges of /etc/subuid and /etc/subgid;
mapping them takes the set-user-ID programs newuidmap and newgidmap. Without them only root is
mapped, and programs that change their user fail (tcpdump, nginx, bird).

Source: user_namespaces(7), newuidmap(1), subuid(5).
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import subprocess

PROGRAMS: Final = ("newuidmap", "newgidmap")
_FILES: Final = ("/etc/subuid", "/etc/subgid")
_MAX_RANGES: Final = 339
"""Maximum number of ranges: a map has 340 lines at most, one of which is root's.

Source: include/linux/user_namespace.h UID_GID_MAP_MAX_EXTENTS."""
_WAIT_AND_MAP: Final = 'read -r _ && newuidmap "$1" $2 && newgidmap "$1" $3'


class IdRange(NamedTuple):
    """Consecutive UIDs or GIDs of the machine."""

    first: int
    length: int


def parse_ranges(text: str, owners: Collection[str]) -> tuple[IdRange, ...]:
    """Parse /etc/subuid or /etc/subgid; return the ranges of a user.

    owners: names and numbers by which the file may identify the user.
    """
    return tuple(_parse_ranges(text, owners))[:_MAX_RANGES]


def _parse_ranges(text: str, owners: Collection[str]) -> Iterator[IdRange]:
    for line in text.splitlines():
        owner, _, numbers = line.strip().partition(":")
        first, _, length = numbers.partition(":")
        if owner in owners and first.isdecimal() and length.isdecimal() and int(length):
            yield IdRange(int(first), int(length))


def map_lines(own: int, ranges: Sequence[IdRange]) -> list[tuple[int, int, int]]:
    """Return the lines of a map as (first ID inside, first ID outside, length).

    ID 0 is mapped to `own`; the ranges follow without gaps.
    """
    lines, inside = [(0, own, 1)], 1
    for first, length in ranges:
        lines.append((inside, first, length))
        inside += length
    return lines


class Mapper:
    """Writer of the UID and GID maps of a user namespace that this process is about to create.

    newuidmap and newgidmap must run in the parent user namespace, so a child process is started
    before the namespace is created.
    """

    def __init__(self) -> None:
        import subprocess

        self.fault = ""
        """Reason why no range is mapped; empty if ranges are mapped."""
        self._child: subprocess.Popen[str] | None = None
        user, group = os.geteuid(), os.getegid()
        try:
            maps = [
                map_lines(own, ranges)
                for own, ranges in zip((user, group), _own_ranges(user), strict=True)
            ]
        except LookupError as error:
            self.fault = str(error.args[0])
            return
        map_arguments = [
            " ".join(str(number) for line in lines for number in line) for lines in maps
        ]
        command = ["sh", "-c", _WAIT_AND_MAP, "sh", str(os.getpid()), *map_arguments]
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            self.fault = f"cannot start newuidmap: {error.strerror}"

    def finish(self, user: int, group: int) -> None:
        """Write the maps; call it in the new user namespace.

        Only root is mapped if the ranges are refused; `fault` is the reason then.

        user, group: effective IDs of the caller in the parent namespace.
        """
        if self._child is not None:
            _, error = self._child.communicate("\n")
            if self._child.returncode:
                self.fault = error.strip() or f"newuidmap exited with {self._child.returncode}"
        own = Path("/proc/self")
        if not (own / "uid_map").read_text():
            (own / "uid_map").write_text(f"0 {user} 1")
        if not (own / "gid_map").read_text():
            (own / "setgroups").write_text("deny")
            (own / "gid_map").write_text(f"0 {group} 1")


def _own_ranges(user: int) -> list[tuple[IdRange, ...]]:
    """Return the UID ranges and the GID ranges of a user.

    Raises LookupError with what is missing.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise LookupError(f"the program {program} is missing")
    owners = {str(user)}
    try:
        owners.add(pwd.getpwuid(user).pw_name)
    except KeyError:
        raise LookupError(f"uid {user} has no name in /etc/passwd, which newuidmap needs") from None
    return [_read_ranges(path, owners) for path in _FILES]


def _read_ranges(path: str, owners: Collection[str]) -> tuple[IdRange, ...]:
    try:
        ranges = parse_ranges(Path(path).read_text(), owners)
    except OSError:
        ranges = ()
    if not ranges:
        raise LookupError(f"{path} has no range for this user")
    return ranges

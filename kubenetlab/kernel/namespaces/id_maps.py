"""Users and groups of an ordinary user's user namespace: root, and a range of the machine's that belongs to that user.

Root inside is the user outside. A range needs the set-user-id programs newuidmap and newgidmap, and lines of the user in
/etc/subuid and /etc/subgid. Without them root is the only user, and programs that change user fail (tcpdump, nginx, bird).
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
_MOST_RANGES: Final = 339
"""The kernel takes 340 lines of a map (user_namespace.h UID_GID_MAP_MAX_EXTENTS), one of which is root's."""
_WAIT_AND_MAP: Final = 'read -r _ && newuidmap "$1" $2 && newgidmap "$1" $3'


class IdRange(NamedTuple):
    """Consecutive users or groups of the machine."""

    first: int
    length: int


def ranges_of(text: str, owners: Collection[str]) -> tuple[IdRange, ...]:
    """Read the lines of /etc/subuid or /etc/subgid that belong to a user: by its name or its number."""
    return tuple(_ranges(text, owners))[:_MOST_RANGES]


def _ranges(text: str, owners: Collection[str]) -> Iterator[IdRange]:
    for line in text.splitlines():
        owner, _, numbers = line.strip().partition(":")
        first, _, length = numbers.partition(":")
        if owner in owners and first.isdecimal() and length.isdecimal() and int(length):
            yield IdRange(int(first), int(length))


def lines_of_map(own: int, ranges: Sequence[IdRange]) -> list[tuple[int, int, int]]:
    """Return (inside, outside, length) for root, who is `own` outside, and for the ranges one after the other."""
    lines, inside = [(0, own, 1)], 1
    for first, length in ranges:
        lines.append((inside, first, length))
        inside += length
    return lines


class Mapper:
    """Writes both maps of a user namespace that this process is about to make.

    The programs that do it have to be outside, so a child is started before.
    """

    def __init__(self) -> None:
        import subprocess

        self.fault = ""
        """Why there is no range; empty when there is one."""
        self._child: subprocess.Popen[str] | None = None
        user, group = os.geteuid(), os.getegid()
        try:
            maps = [
                lines_of_map(own, ranges)
                for own, ranges in zip((user, group), _own_ranges(user), strict=True)
            ]
        except LookupError as error:
            self.fault = str(error.args[0])
            return
        words = [" ".join(str(number) for line in lines for number in line) for lines in maps]
        command = ["sh", "-c", _WAIT_AND_MAP, "sh", str(os.getpid()), *words]
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            self.fault = f"newuidmap cannot be started: {error.strerror}"

    def finish(self, user: int, group: int) -> None:
        """Map the ranges, or root alone where that is refused, once this process stands in the new user namespace.

        user, group: of the caller outside.
        """
        if self._child is not None:
            _, error = self._child.communicate("\n")
            if self._child.returncode:
                self.fault = error.strip() or f"newuidmap ended with {self._child.returncode}"
        own = Path("/proc/self")
        if not (own / "uid_map").read_text():
            (own / "uid_map").write_text(f"0 {user} 1")
        if not (own / "gid_map").read_text():
            (own / "setgroups").write_text("deny")
            (own / "gid_map").write_text(f"0 {group} 1")


def _own_ranges(user: int) -> list[tuple[IdRange, ...]]:
    """The ranges of users, and of groups. Raises LookupError with what is missing."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise LookupError(f"the program {program} is missing")
    owners = {str(user)}
    try:
        owners.add(pwd.getpwuid(user).pw_name)
    except KeyError:
        raise LookupError(f"uid {user} has no name in /etc/passwd, which newuidmap needs") from None
    return [_ranges_in(path, owners) for path in _FILES]


def _ranges_in(path: str, owners: Collection[str]) -> tuple[IdRange, ...]:
    try:
        ranges = ranges_of(Path(path).read_text(), owners)
    except OSError:
        ranges = ()
    if not ranges:
        raise LookupError(f"{path} has no range for this user")
    return ranges

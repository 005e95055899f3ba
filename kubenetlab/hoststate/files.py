"""Text files of a node, as its daemons and `kubenetlab exec node:NAME` see them."""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from kubenetlab.hoststate.object import Key, Object, ShellName

TREES: Final = ("/etc", "/opt", "/run", "/var")
"""Directories of the machine in which a sandbox can have directories of its own."""
_END: Final = "END_OF_FILE"
"""Delimiter of here-documents."""


class File(Object, frozen=True):
    """A text file of a sandbox.

    It is in a directory of the sandbox's own, which replaces the machine's: all files below
    `/etc/bird` are those of the sandbox, and other directories of `/etc` are the machine's.
    """

    rank = 190
    applier = "files"

    path: str
    """Absolute path, at least two directories deep: `/etc/bird/bird.conf`."""
    content: str
    mode: int = 0o644

    @property
    def key(self) -> Key:
        return ("File", self.path)

    @property
    def directory(self) -> str:
        """Directory of the machine that the sandbox's own replaces: `/etc/bird`."""
        return own_directory(self.path)

    def __str__(self) -> str:
        lines = self.content.count("\n")
        return (
            f"file {self.path} mode {self.mode:04o} "
            f"({lines} line{'' if lines == 1 else 's'}, crc32 {digest([self])})"
        )

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        """Yield the lines of a call of the script's function `write`."""
        end = _END
        while end in self.content:
            end += "_"
        path = shlex.quote(self.path)
        yield f"write {shell_name(self.netns)} {path} {self.mode:04o} <<'{end}'"
        yield from self.content.removesuffix("\n").split("\n")
        yield end


def own_directory(path: str) -> str:
    """Return the directory of the machine that a sandbox's own replaces: `/etc/bird`.

    path: of a file in it.
    """
    return "/".join(path.split("/")[:3])


def digest(files: Iterable[File]) -> str:
    """Return eight hexadecimal digits that change with the path, content or mode of a file."""
    crc = 0
    for file in files:
        crc = zlib.crc32(f"{file.path}\0{file.mode:o}\0{file.content}\0".encode(), crc)
    return f"{crc:08x}"

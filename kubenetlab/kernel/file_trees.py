"""Files of sandboxes: one directory tree for each sandbox that has files, and a watch of them.

    TREES/node_worker/run/flannel/subnet.env    the file /run/flannel/subnet.env of Node worker
    TREES/node_worker.list                      paths of the files that the lab has written
    TREES/node_worker.logs/bird.log             output of the daemon bird, /var/log/bird.log there

Programs of the sandbox have the tree's directories in place of the machine's
(namespaces/own_directories.py). They can write there, too; only listed files are compared.

Source: inotify(7).
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from kubenetlab.hoststate.diff import Operation
from kubenetlab.hoststate.files import File
from kubenetlab.kernel.files import replace_file
from kubenetlab.kernel.namespaces.own_directories import logs_of
from kubenetlab.kernel.report import Failure, failure_of
from kubenetlab.kernel.syscalls import inotify_add_watch, inotify_open
from kubenetlab.names import file_name

_LIST: Final = ".list"
MAX_BYTES: Final = 1 << 20
"""Maximum number of bytes that are read of a file."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_EVENT: Final = struct.Struct("=iIII")
"""struct inotify_event: wd, mask, cookie, len; the name follows."""
_IN_ATTRIB, _IN_CLOSE_WRITE, _IN_MOVED, _IN_DELETE = 0x4, 0x8, 0xC0, 0x200
_IN_ONLYDIR: Final = 0x01000000
_IN_Q_OVERFLOW: Final = 0x4000
_CHANGES: Final = _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_MOVED | _IN_DELETE
_BUFFER_BYTES: Final = 64 * 1024


class FileTrees:
    """The trees of one lab, by sandbox."""

    def __init__(self, root: Path) -> None:
        """Use trees below `root`, which need not exist."""
        self._root = root
        self._written: dict[str, set[str]] | None = None
        """Name of a tree → paths of its files; None until they are first needed."""

    def path(self, netns: str) -> Path:
        """Return the tree of a sandbox, which need not exist."""
        return self._root / tree_name(netns)

    def has_files(self, netns: str) -> bool:
        """Return True if the lab has written files of a sandbox."""
        return tree_name(netns) in self._trees()

    def apply(self, netns: str, operations: Sequence[Operation]) -> list[Failure]:
        """Write and remove files; return the operations that failed."""
        failures: list[Failure] = []
        for operation in operations:
            assert isinstance(operation.object, File)
            try:
                if operation.verb == "remove":
                    self.remove(operation.object)
                else:
                    self.write(operation.object)
            except OSError as error:
                failures.append(failure_of(netns, operation, error))
        return failures

    def write(self, file: File) -> None:
        """Create or replace a file, atomically. Raises OSError that names the file."""
        paths = self._trees().setdefault(tree_name(file.netns), set())
        if file.path not in paths:
            paths.add(file.path)
            self._save(file.netns)  # first: a file that is not listed would never be removed
        directory, name = os.path.split(file.path)
        try:
            with self.open_directory(file.netns, directory, is_made=True) as fd:
                _replace(fd, name, file.content.encode(), file.mode)
        except OSError as error:
            raise OSError(error.errno, error.strerror, file.path) from None

    def remove(self, file: File) -> None:
        """Remove a file; succeed if it does not exist. Raises OSError."""
        directory, name = os.path.split(file.path)
        with (
            suppress(FileNotFoundError, NotADirectoryError),
            self.open_directory(file.netns, directory) as fd,
        ):
            os.unlink(name, dir_fd=fd)
        if (paths := self._trees().get(tree_name(file.netns))) is not None:
            paths.discard(file.path)
            self._save(file.netns)

    def make_directory(self, netns: str, path: str) -> None:
        """Create a directory of a sandbox, such as /run/bird, unless it exists. Raises OSError."""
        with self.open_directory(netns, path, is_made=True):
            pass

    def read(self, netns: str) -> list[File]:
        """Return the files of a sandbox that the lab has written, as far as they exist."""
        return [
            file
            for path in sorted(self._trees().get(tree_name(netns), ()))
            if (file := self._read(netns, path)) is not None
        ]

    def forget(self, netns: str) -> None:
        """Remove the tree of a sandbox that no longer exists."""
        if self._trees().pop(tree_name(netns), None) is not None:
            tree = self.path(netns)
            shutil.rmtree(tree, ignore_errors=True)
            shutil.rmtree(logs_of(str(tree)), ignore_errors=True)
            self._list(netns).unlink(missing_ok=True)

    def _read(self, netns: str, path: str) -> File | None:
        directory, name = os.path.split(path)
        try:
            with self.open_directory(netns, directory) as parent:
                fd = os.open(name, _READ, dir_fd=parent)
            with open(fd, "rb") as stream:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    return None
                content = stream.read(MAX_BYTES).decode(errors="replace")
                return File(netns, path, content, stat.S_IMODE(status.st_mode))
        except OSError:
            return None

    @contextmanager
    def open_directory(self, netns: str, directory: str, *, is_made: bool = False) -> Iterator[int]:
        """Open a directory of a sandbox, and close it after the block.

        Programs of the sandbox may put a link in the place of a directory. Such a link is never
        followed, because it may lead to the machine's own files.

        is_made: create directories that do not exist.

        Raises OSError.
        """
        tree = self.path(netns)
        if is_made:
            tree.mkdir(0o755, parents=True, exist_ok=True)
        fd = os.open(tree, _DIRECTORY)
        try:
            for name in directory.strip("/").split("/"):
                if is_made:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=fd)
                parent, fd = fd, os.open(name, _DIRECTORY, dir_fd=fd)
                os.close(parent)
            yield fd
        finally:
            os.close(fd)

    def _trees(self) -> dict[str, set[str]]:
        """Return the paths of the files in each tree that exists, by the name of the tree."""
        if self._written is None:
            self._written = {
                listed.stem: set(listed.read_text().splitlines())
                for listed in self._root.glob(f"*{_LIST}")
            }
        return self._written

    def _list(self, netns: str) -> Path:
        return self._root / f"{tree_name(netns)}{_LIST}"

    def _save(self, netns: str) -> None:
        text = "".join(f"{path}\n" for path in sorted(self._trees()[tree_name(netns)]))
        self._root.mkdir(0o700, parents=True, exist_ok=True)
        replace_file(self._list(netns), text.encode())


def _replace(directory: int, name: str, data: bytes, mode: int) -> None:
    """Replace a file in an open directory so that it always has the old or the new content."""
    temporary = f".{name}.new"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=directory)
    with open(os.open(temporary, _WRITE, 0o600, dir_fd=directory), "wb") as stream:
        stream.write(data)
        os.fchmod(stream.fileno(), mode)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


class FileWatch:
    """Notifications about files in directories, by inotify."""

    def __init__(self) -> None:
        """Watch nothing yet. Raises OSError if the user has too many watches already."""
        self.fd = inotify_open()
        self._netns_of: dict[int, str] = {}
        """Watch descriptor → sandbox."""

    def add(self, netns: str, tree: Path, files: Iterable[File]) -> None:
        """Watch the directories of files, in the tree of their sandbox.

        A directory that does not exist, or that the kernel refuses to watch, is left out.
        """
        for directory in {os.path.dirname(file.path) for file in files}:
            with suppress(OSError):
                path = str(tree / directory.lstrip("/"))
                self._netns_of[inotify_add_watch(self.fd, path, _CHANGES | _IN_ONLYDIR)] = netns

    def read(self) -> set[str]:
        """Return the sandboxes whose directories have changed since the last call."""
        changed: set[str] = set()
        with suppress(BlockingIOError):
            while data := os.read(self.fd, _BUFFER_BYTES):
                offset = 0
                while offset < len(data):
                    watch, mask, _, length = _EVENT.unpack_from(data, offset)
                    offset += _EVENT.size + length
                    if mask & _IN_Q_OVERFLOW:
                        changed.update(self._netns_of.values())
                    elif watch in self._netns_of:
                        changed.add(self._netns_of[watch])
        return changed


def tree_name(netns: str) -> str:
    """Return the name of the tree of a sandbox: `node_worker`."""
    return file_name(netns.replace("/", "_"), spare=len(_LIST))

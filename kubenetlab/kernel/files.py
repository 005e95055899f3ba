"""Files that are replaced as a whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, data: bytes, mode: int = 0o600, former: Path | None = None) -> bool:
    """Write a file so that it holds either the old or the new, whatever happens. Raises OSError that names it.

    By rename: a program that runs cannot be written to (ETXTBSY). The old file stays under the path `former`, if that is given; returns
    False where it does not: there was none, or the file system knows no hard links.
    """
    temporary = path.with_suffix(".new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            _write_all(fd, data)
        finally:
            os.close(fd)
        is_kept = former is not None and _keep(path, former)
        os.rename(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()  # half a file, on a disk that is full
        raise OSError(error.errno, error.strerror, str(path)) from None
    return is_kept


def _keep(path: Path, former: Path) -> bool:
    """Give a file a second name, in place of the file that has it; False where that is not possible."""
    temporary = former.with_suffix(".new")
    try:
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
        os.rename(temporary, former)
    except OSError:
        return False
    return True


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def append_line(path: Path, data: bytes, limit: int) -> bool:
    """Appends a line to a file, all of it or nothing; false when the file would have more bytes than its limit. Raises OSError that names it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size + len(data) + 1 > limit:
            return False
        try:
            _write_all(fd, data + b"\n")
        except OSError as error:
            os.ftruncate(fd, size)
            raise OSError(error.errno, error.strerror, str(path)) from None
        return True
    finally:
        os.close(fd)

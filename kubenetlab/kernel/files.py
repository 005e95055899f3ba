"""Files that are replaced as a whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Writes a file so that it holds either the old or the new, whatever happens. Raises OSError that names it.

    By rename: a program that runs cannot be written to (ETXTBSY).
    """
    temporary = path.with_suffix(".new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            _write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()  # half a file, on a disk that is full
        raise OSError(error.errno, error.strerror, str(path)) from None


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

"""Atomic replacement of files, and appending of whole lines."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, data: bytes, mode: int = 0o600, former: Path | None = None) -> bool:
    """Replace a file so that it always has either the old or the new content.

    The file is renamed into place, because a running program cannot be written to (ETXTBSY).

    former: path under which the old file is kept.

    Return True if the old file was kept: it existed, and the file system supports hard links.
    Raises OSError that names the file.
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
            temporary.unlink()  # incomplete, for example because the disk is full
        raise OSError(error.errno, error.strerror, str(path)) from None
    return is_kept


def _keep(path: Path, former: Path) -> bool:
    """Hard-link a file, replacing the file at the new path; return False if this fails."""
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
    """Append a line to a file, completely or not at all.

    Return False if the file would exceed `limit` bytes. Raises OSError that names the file.
    """
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

"""Sysctls of the current network namespace, in /proc/sys/net.

Each network namespace has its own /proc/sys/net. A mounted /proc keeps those of all namespaces that
were ever looked up, under one name, and searches all of them to find a new one: a tenth of the time
it takes to create 1,000 pods. Therefore the directory is looked up once for all sysctls that are
accessed together, in a private /proc that is mounted nowhere and is replaced after some namespaces.

Source: fs/proc/proc_sysctl.c proc_sys_compare() (6.18).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final, Self

from kubenetlab.hoststate.diff import Operation
from kubenetlab.hoststate.sandbox import Setting, Settings, Sysctl
from kubenetlab.kernel.report import Failure, failure_of
from kubenetlab.kernel.syscalls import mount_detached

_NET: Final = "net/"
_MAX_BYTES: Final = 4096
_NAMESPACES_PER_PROC: Final = 64
"""Number of namespaces that are looked up in one private /proc."""


class Sysctls:
    """Sysctls of the namespaces that the process enters one after the other."""

    def __init__(self) -> None:
        self._proc = -1
        self._namespace_count = 0

    def open_current(self) -> _NetDirectory:
        """Open the sysctls of the current namespace; close them before leaving it."""
        if self._proc < 0 or self._namespace_count >= _NAMESPACES_PER_PROC:
            self.close()
            self._proc = _new_proc()
        self._namespace_count += 1
        return _NetDirectory(self._proc)

    def read(self, desired: Iterable[Sysctl | Settings]) -> Iterator[Sysctl | Settings]:
        """Yield each object with its current value.

        A sysctl that this kernel does not have is left out; an optional one is yielded as desired.
        """
        with self.open_current() as directory:
            for obj in desired:
                observed = [
                    _read(directory, setting)
                    for setting in obj.parts
                    if isinstance(setting, Sysctl)
                ]
                if isinstance(obj, Settings):
                    yield Settings(
                        obj.netns,
                        tuple(
                            (setting.path, setting.value, setting.is_optional)
                            for setting in observed
                            if setting is not None
                        ),
                    )
                else:
                    yield from (setting for setting in observed if setting is not None)

    def close(self) -> None:
        """Close the private /proc; the next access opens another one."""
        if self._proc >= 0:
            os.close(self._proc)
        self._proc, self._namespace_count = -1, 0


class SysctlWriter:
    """Writes sysctls, except those that a new namespace already has.

    All new namespaces start with the same values. So the sysctls that had to be written in the
    first namespace with a given table are the ones to write in all of them. This is remembered for
    one apply only, because the machine's defaults may change later.
    """

    def __init__(self, sysctls: Sysctls) -> None:
        self._sysctls = sysctls
        self._effective: dict[tuple[Setting, ...], tuple[Setting, ...]] = {}

    def write(self, netns: str, operations: Iterable[Operation]) -> list[Failure]:
        """Apply operations in the current namespace; removed sysctls keep their values."""
        writes = [operation for operation in operations if operation.verb != "remove"]
        if not writes:
            return []
        with self._sysctls.open_current() as directory:
            return [
                failure
                for operation in writes
                for failure in self._write(directory, netns, operation)
            ]

    def _write(
        self, directory: _NetDirectory, netns: str, operation: Operation
    ) -> Iterator[Failure]:
        obj = operation.object
        table = obj.table if operation.verb == "add" and isinstance(obj, Settings) else None
        effective = self._effective.get(table) if table is not None else None
        settings = (
            Settings(netns, effective).parts
            if effective is not None
            else [part.object for part in operation.details() if part.verb != "remove"]
        )
        written: list[Setting] = []
        is_complete = True
        for setting in settings:
            assert isinstance(setting, Sysctl)
            try:
                if effective is not None or directory.read(setting.path) != setting.value:
                    directory.write(setting.path, setting.value)
                    written.append((setting.path, setting.value, setting.is_optional))
            except OSError as error:
                if not (isinstance(error, FileNotFoundError) and setting.is_optional):
                    is_complete = False
                    yield failure_of(
                        netns, Operation(operation.verb, setting, origin=operation.origin), error
                    )
        if table is not None and is_complete:
            self._effective[table] = tuple(written)


class _NetDirectory:
    """Open directory sys/net of a /proc. Paths begin with `net/`."""

    def __init__(self, proc: int) -> None:
        self._directory = os.open("sys/net", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._directory)

    def read(self, path: str) -> str:
        fd = self._open(path, os.O_RDONLY)
        try:
            return os.read(fd, _MAX_BYTES).decode().strip()
        finally:
            os.close(fd)

    def write(self, path: str, value: str) -> None:
        fd = self._open(path, os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    def _open(self, path: str, flags: int) -> int:
        return os.open(path.removeprefix(_NET), flags | os.O_CLOEXEC, dir_fd=self._directory)


def _read(directory: _NetDirectory, setting: Sysctl) -> Sysctl | None:
    try:
        return Sysctl(
            setting.netns, setting.path, directory.read(setting.path), setting.is_optional
        )
    except FileNotFoundError:
        return setting if setting.is_optional else None


def _new_proc() -> int:
    try:
        return mount_detached("proc")
    except OSError:  # an old kernel, or a container that hides parts of /proc
        return os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

"""Settings of the network namespace we stand in, below /proc/sys/net.

Each namespace has a directory /proc/sys/net of its own, and a mounted /proc keeps those that were ever looked for under one name: to find
a new one the kernel goes through all of them, a tenth of all that making 1,000 pods takes. So the way there is gone once for all
settings that are asked for together, and by a /proc of our own, mounted nowhere, and another one after some namespaces.
Source: fs/proc/proc_sysctl.c proc_sys_compare() (6.18).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final, Self

from kubenetlab.hoststate.diff import Operation
from kubenetlab.hoststate.sandbox import Setting, Settings, Sysctl
from kubenetlab.kernel.report import Failure, failure_of
from kubenetlab.kernel.syscalls import mount_apart

_NET: Final = "net/"
_MAX_BYTES: Final = 4096
_NAMESPACES: Final = 64
"""So many are looked for by one /proc."""


class Sysctls:
    """The settings of the namespaces in which we stand one after the other."""

    def __init__(self) -> None:
        self._proc = -1
        self._looked = 0

    def here(self) -> _Here:
        """Those of the namespace we stand in now; to be closed before it is left."""
        if self._proc < 0 or self._looked >= _NAMESPACES:
            self.close()
            self._proc = _new_proc()
        self._looked += 1
        return _Here(self._proc)

    def read(self, wanted: Iterable[Sysctl | Settings]) -> Iterator[Sysctl | Settings]:
        """Each as it is now; one that this kernel does not have is missing, unless it need not be there."""
        with self.here() as here:
            for obj in wanted:
                found = [
                    _read(here, setting) for setting in obj.parts if isinstance(setting, Sysctl)
                ]
                if isinstance(obj, Settings):
                    yield Settings(
                        obj.netns,
                        tuple(
                            (setting.path, setting.value, setting.is_optional)
                            for setting in found
                            if setting is not None
                        ),
                    )
                else:
                    yield from (setting for setting in found if setting is not None)

    def close(self) -> None:
        """Lets go of the /proc: the next one who asks gets another."""
        if self._proc >= 0:
            os.close(self._proc)
        self._proc, self._looked = -1, 0


class SysctlWriter:
    """Writes settings, but not those that every new namespace has anyway.

    New namespaces are born alike, so what had to be written in the first one with a given table of settings has to be written in
    all. Kept for the length of one apply only: the machine's own defaults may change later.
    """

    def __init__(self, sysctls: Sysctls) -> None:
        self._sysctls = sysctls
        self._needed: dict[tuple[Setting, ...], tuple[Setting, ...]] = {}

    def write(self, netns: str, operations: Iterable[Operation]) -> list[Failure]:
        """In the namespace we stand in; settings that are not wanted any more stay as they are."""
        wanted = [operation for operation in operations if operation.verb != "remove"]
        if not wanted:
            return []
        with self._sysctls.here() as here:
            return [
                failure for operation in wanted for failure in self._write(here, netns, operation)
            ]

    def _write(self, here: _Here, netns: str, operation: Operation) -> Iterator[Failure]:
        obj = operation.object
        table = obj.table if operation.verb == "add" and isinstance(obj, Settings) else None
        needed = self._needed.get(table) if table is not None else None
        settings = (
            Settings(netns, needed).parts
            if needed is not None
            else [part.object for part in operation.details() if part.verb != "remove"]
        )
        written: list[Setting] = []
        is_complete = True
        for setting in settings:
            assert isinstance(setting, Sysctl)
            try:
                if needed is not None or here.read(setting.path) != setting.value:
                    here.write(setting.path, setting.value)
                    written.append((setting.path, setting.value, setting.is_optional))
            except OSError as error:
                if not (isinstance(error, FileNotFoundError) and setting.is_optional):
                    is_complete = False
                    yield failure_of(
                        netns, Operation(operation.verb, setting, origin=operation.origin), error
                    )
        if table is not None and is_complete:
            self._needed[table] = tuple(written)


class _Here:
    """sys/net of a /proc, opened. Paths begin with `net/`."""

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


def _read(here: _Here, setting: Sysctl) -> Sysctl | None:
    try:
        return Sysctl(setting.netns, setting.path, here.read(setting.path), setting.is_optional)
    except FileNotFoundError:
        return setting if setting.is_optional else None


def _new_proc() -> int:
    try:
        return mount_apart("proc")
    except OSError:  # an old kernel, or a container that hides parts of /proc
        return os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

"""Daemons: programs of the machine that run in the namespaces of a node."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from msgspec import Struct

from kubenetlab.hoststate.files import File, digest
from kubenetlab.hoststate.object import Key, Object, ShellName


class ReloadSignal(Struct, frozen=True):
    """A signal upon which a daemon reads its files again."""

    name: str = "SIGHUP"

    def __str__(self) -> str:
        return self.name


class ControlSocket(Struct, frozen=True):
    """A control socket: a stream of lines, as BIRD has it.

    Each reply begins with four digits. The last line of an answer has a space behind them, all
    others have a hyphen.
    """

    path: str
    """Path of the socket, in a directory of the sandbox's own."""
    reload: str
    """Command upon which the daemon reads its files again."""
    accepted: tuple[str, ...]
    """Codes of replies to `reload` that mean success."""

    def __str__(self) -> str:
        return f'"{self.reload}" on {self.path}'


class Daemon(Object, frozen=True):
    """A program of the machine in the namespaces of a sandbox, restarted whenever it ends.

    It sees the files of its sandbox. When one of those that it reads has changed it is reloaded,
    not restarted. A change of `argv` restarts it.
    """

    rank = 195
    applier = "daemons"

    name: str
    argv: tuple[str, ...]
    files: tuple[str, ...]
    """Paths of the files that it reads."""
    revision: str
    """Digest of these files, as the daemon has read them."""
    reload: ReloadSignal | ControlSocket = ReloadSignal()
    provides: tuple[str, ...] = ()
    """Destinations of the routes that it adds to the kernel; a lab is ready once they exist."""
    restart_options: tuple[str, ...] = ()
    """Further arguments when it is started again after its end, such as `-R` of BIRD."""

    @classmethod
    def reading(
        cls,
        files: Sequence[File],
        name: str,
        argv: Sequence[str],
        *,
        reload: ReloadSignal | ControlSocket = ReloadSignal(),
        provides: Sequence[str] = (),
        restart_options: Sequence[str] = (),
    ) -> Daemon:
        """Return a daemon that reads these files, in their sandbox."""
        return cls(
            files[0].netns,
            name,
            tuple(argv),
            tuple(file.path for file in files),
            digest(files),
            reload,
            tuple(provides),
            tuple(restart_options),
        )

    @property
    def key(self) -> Key:
        return ("Daemon", self.name)

    def __str__(self) -> str:
        return f"daemon {self.name}: {shlex.join(self.argv)} (files {self.revision})"

    def commands(self, shell_name: ShellName) -> Iterator[str]:
        """Yield a call of the script's function `daemon`."""
        directories = ""
        if isinstance(self.reload, ControlSocket):
            directory = shlex.quote(self.reload.path.rpartition("/")[0])
            directories = f'mkdir -p "$FILES"/{shell_name(self.netns)}{directory} && '
        yield f"{directories}daemon {shell_name(self.netns)} {shlex.join((self.name, *self.argv))}"

"""Build programs of Go modules, and unpack programs of Debian packages, into a cache.

The cache is ${XDG_CACHE_HOME:-~/.cache}/kubenetlab/upstream. It has a folder NAME-VERSION for each
module, and NAME for each package, which is complete or absent: programs are made in a temporary
folder, which is then renamed. Nothing is installed, and no package starts a service.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct, field

GO_FOLDERS: Final = "/usr/local/go/bin:/usr/lib/go/bin"
"""Folders where Go is often installed, for a PATH without it."""
BUILD_LIMIT_S: Final = float(os.environ.get("KUBENETLAB_BUILD_LIMIT_S", "180"))
"""Time limit for downloading and building one module, in seconds.

Go caches what it has compiled, so a build that was stopped continues with the next attempt.
"""
_SHOWN_LINES: Final = 5


class NotAvailableError(Exception):
    """The program cannot be built or unpacked on this machine; the message has the reason."""


class GoModule(Struct, frozen=True):
    """A version of a Go module, and the programs to build from it."""

    name: str
    path: str
    version: str
    packages: Mapping[str, str]
    """Program → its package, a folder of the module."""
    replaced: Mapping[str, str] = field(default_factory=dict)
    """File of the module → its new content, for parts that are left out."""


class DebianPackage(Struct, frozen=True):
    """A Debian package, and the path of the program in it."""

    name: str
    program: str


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kubenetlab" / "upstream"


def is_cached(module: GoModule) -> bool:
    return _folder(module).is_dir()


def build(module: GoModule) -> Path:
    """Return the folder of the module's programs; build them if the cache does not have them.

    Raises NotAvailableError without Go, without a module proxy, or after BUILD_LIMIT_S.
    """
    folder = _folder(module)
    with _locked(folder):
        if not folder.is_dir():
            go = _go()
            with _complete_or_absent(folder) as partial:
                _build(go, module, partial)
    return folder


def unpack(package: DebianPackage) -> Path:
    """Return the path of the package's program; download and unpack it if necessary.

    Raises NotAvailableError without apt-get, or if the package cannot be downloaded.
    """
    folder = cache_folder() / package.name
    with _locked(folder):
        if not folder.is_dir():
            if not shutil.which("apt-get"):
                raise NotAvailableError(f"{package.name}: apt-get is not installed")
            with _complete_or_absent(folder) as partial, tempfile.TemporaryDirectory() as download:
                deadline = time.monotonic() + BUILD_LIMIT_S
                # Without privileges to drop, apt-get warns that it does not drop them.
                options = ("-q", "-o", "APT::Sandbox::User=root")
                _run(("apt-get", "download", *options, package.name), download, deadline)
                (archive,) = Path(download).glob("*.deb")
                _run(("dpkg-deb", "-x", str(archive), str(partial)), download, deadline)
    return folder / package.program


def _folder(module: GoModule) -> Path:
    return cache_folder() / f"{module.name}-{module.version}"


def _go() -> str:
    go = shutil.which("go", path=f"{os.environ['PATH']}:{GO_FOLDERS}")
    if go is None:
        raise NotAvailableError(
            "Go is not installed: `apt-get install golang` or https://go.dev/dl"
        )
    return go


def _build(go: str, module: GoModule, folder: Path) -> None:
    deadline = time.monotonic() + BUILD_LIMIT_S
    with tempfile.TemporaryDirectory() as source:
        name = f"{module.path}@{module.version}"
        downloaded = _run((go, "mod", "download", "-json", name), source, deadline)
        _copy(Path(json.loads(downloaded)["Dir"]), Path(source))
        for path, content in module.replaced.items():
            Path(source, path).write_text(content)
        for program, package in module.packages.items():
            options = ("-trimpath", "-ldflags=-s -w", "-o", str(folder / program))
            _run((go, "build", *options, f"./{package}"), source, deadline)


def _copy(source: Path, target: Path) -> None:
    """Copy a module from Go's cache, where folders and files are read-only, as writable files."""
    for folder, folders, files in os.walk(source):
        copy = target / Path(folder).relative_to(source)
        for name in folders:
            (copy / name).mkdir()
        for name in files:
            shutil.copyfile(Path(folder, name), copy / name)


def _run(command: tuple[str, ...], folder: str, deadline: float) -> str:
    """Run `command` in `folder` and return its output.

    Raises NotAvailableError with the end of the error output, or when `deadline` is over.
    """
    # GOTOOLCHAIN: build with this Go or not at all. CGO_ENABLED: a C compiler is not needed.
    settings = {"GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0", "GOFLAGS": ""}
    try:
        completed = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=max(1.0, deadline - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired:
        limit = f"{BUILD_LIMIT_S:.0f} s, set by KUBENETLAB_BUILD_LIMIT_S"
        raise NotAvailableError(f"{_shown(command)} took longer than {limit}") from None
    if completed.returncode:
        output = (completed.stderr.strip() or completed.stdout.strip()).splitlines()
        raise NotAvailableError("\n".join((f"{_shown(command)} failed:", *output[-_SHOWN_LINES:])))
    return completed.stdout


def _shown(command: tuple[str, ...]) -> str:
    return " ".join((Path(command[0]).name, *command[1:]))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from making the same folder at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `folder` at the end; delete it after an error."""
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

"""Debian's kernel for clouds: the package is downloaded and unpacked into a cache.

Nothing of it is installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from msgspec import Struct

PACKAGE = "linux-image-cloud-amd64"
"""Package that depends on the package of the newest kernel of this Debian release."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kubenetlab/kernels")


class VmError(Exception):
    """The machine is not available, or did not end as expected."""


class Kernel(Struct, frozen=True):
    """An unpacked kernel."""

    image: Path
    modules: Path
    """Directory with modules.dep, as below /lib/modules."""

    def with_dependencies(self, *names: str) -> list[Path]:
        """Return the files of modules, each after its dependencies.

        Modules that are built into the kernel have no file.
        """
        files_of_module = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            path, _, dependencies = line.partition(":")
            files_of_module[Path(path).name.partition(".ko")[0].replace("-", "_")] = [
                *reversed(dependencies.split()),
                path,
            ]
        return [
            self.modules / path
            for path in dict.fromkeys(
                path for name in names for path in files_of_module.get(name, ())
            )
        ]


def kernel() -> Kernel:
    """Return the newest kernel that this machine's apt knows, from the cache if possible."""
    package = _newest() or (_output("apt-get", "update", "-q") and _newest())
    if not package:
        raise VmError(
            f"apt knows no package {PACKAGE}: the machine needs Debian's kernel for amd64"
        )
    unpacked = CACHE / package
    if not unpacked.is_dir():
        _unpack(package, unpacked)
    (image,) = unpacked.glob("boot/vmlinuz-*")
    release = image.name.removeprefix("vmlinuz-")
    (modules,) = (
        path
        for path in (unpacked / "lib/modules" / release, unpacked / "usr/lib/modules" / release)
        if path.is_dir()
    )
    return Kernel(image, modules)


def _newest() -> str:
    """Return a name such as linux-image-6.1.0-56-cloud-amd64, or nothing if apt knows none."""
    match = re.search(
        r"Depends: (linux-image-\S+)", _output("apt-cache", "depends", PACKAGE, check=False)
    )
    return match[1] if match else ""


def _unpack(package: str, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent) as scratch:
        try:
            _output("apt-get", "download", "-q", package, cwd=scratch)
        except VmError:  # the package lists are older than the archive
            _output("apt-get", "update", "-q")
            _output("apt-get", "download", "-q", package, cwd=scratch)
        (archive,) = Path(scratch).glob("*.deb")
        files = Path(scratch, "files")
        _output("dpkg", "-x", str(archive), str(files))
        (image,) = files.glob("boot/vmlinuz-*")
        _output("depmod", "-b", str(files), image.name.removeprefix("vmlinuz-"))
        files.rename(to)


def _output(*command: str, cwd: str | None = None, check: bool = True) -> str:
    completed = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )
    if check and completed.returncode:
        raise VmError(
            f"{' '.join(command)} ended with {completed.returncode}\n{completed.stderr.strip()}"
        )
    return completed.stdout

"""Debian's kernel for clouds: the package is fetched and unpacked into a cache.

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
"""Depends on the package that has the newest kernel of this Debian."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kubenetlab/kernels")


class VmError(Exception):
    """The machine cannot be had, or did not end as it should."""


class Kernel(Struct, frozen=True):
    """An unpacked kernel."""

    image: Path
    modules: Path
    """Directory with modules.dep, as below /lib/modules."""

    def with_dependencies(self, *names: str) -> list[Path]:
        """Files of modules, each after those it needs; what is built into the kernel has none."""
        needs = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            path, _, others = line.partition(":")
            needs[Path(path).name.partition(".ko")[0].replace("-", "_")] = [
                *reversed(others.split()),
                path,
            ]
        return [
            self.modules / path
            for path in dict.fromkeys(path for name in names for path in needs.get(name, ()))
        ]


def kernel() -> Kernel:
    """The newest that this machine's apt knows, from the cache when it is there."""
    package = _newest() or (_said("apt-get", "update", "-q") and _newest())
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
    """Such as linux-image-6.1.0-56-cloud-amd64; empty when apt does not know."""
    found = re.search(
        r"Depends: (linux-image-\S+)", _said("apt-cache", "depends", PACKAGE, check=False)
    )
    return found[1] if found else ""


def _unpack(package: str, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent) as scratch:
        try:
            _said("apt-get", "download", "-q", package, cwd=scratch)
        except VmError:  # the lists are older than the archive
            _said("apt-get", "update", "-q")
            _said("apt-get", "download", "-q", package, cwd=scratch)
        (archive,) = Path(scratch).glob("*.deb")
        files = Path(scratch, "files")
        _said("dpkg", "-x", str(archive), str(files))
        (image,) = files.glob("boot/vmlinuz-*")
        _said("depmod", "-b", str(files), image.name.removeprefix("vmlinuz-"))
        files.rename(to)


def _said(*command: str, cwd: str | None = None, check: bool = True) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )
    if check and done.returncode:
        raise VmError(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr.strip()}")
    return done.stdout

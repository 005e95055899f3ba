"""Real containers.

Podman with runc runs an image of the Containerfile whose base is a root file system made by
mmdebstrap. Everything is temporary: the storage, and a mount namespace with a /run of its own, in
which all programs run, so that nothing stays mounted. A folder of the cache (`KUBENETLAB_CACHE`,
otherwise `.cache` in the checkout) keeps the root file system, if the folder exists.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from tests.labs.lab import wait_for
from tests.patience import patiently

ROOT = Path(__file__).parents[2]
PROGRAMS: Final = ("podman", "runc", "mmdebstrap")
_CONTAINERFILE = (ROOT / "Containerfile").read_text()
_MIRROR: Final = "http://deb.debian.org/debian"
_PYTHON: Final = {"bookworm": "3.11"}
"""Debian's suite → its version of Python, for which wheels are downloaded."""
_LIMITS: Final = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=8192:8192")
"""Limits of containers; Podman's own defaults may exceed those of the machine."""
_PRIVATE: Final = "mount -t tmpfs tmpfs /run && echo ready && exec cat"


def missing_requirement() -> str:
    """Return why no containers can run on this machine, or nothing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        packages = " ".join(missing)
        return f"needs {', '.join(missing)}: apt-get install --no-install-recommends {packages}"
    return "" if os.geteuid() == 0 else "containers need root"


class Engine:
    """Podman with a storage of its own and the image `kubenetlab`."""

    def __init__(self, directory: Path, enter: Sequence[str]) -> None:
        self._directory = directory
        self._enter = enter
        self._cgroup = f"/{directory.name}"
        self._podman: list[str] = []

    def run(
        self, *words: str, mounted: Path | None = None, status: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run `podman run WORDS…`; it must end with `status`.

        mounted: folder that becomes the working directory of the container.
        """
        volume = ["--volume", f"{mounted}:/work", "--workdir", "/work"] if mounted else []
        limits = [*_LIMITS, "--cgroup-parent", self._cgroup, "--network", "none"]
        return self._call([*self._podman, "run", "--rm", *limits, *volume, *words], status=status)

    def build(self) -> None:
        """Build the image with the Containerfile, without a network.

        The base contains Debian's packages, and a folder contains the wheels.
        """
        suite = re.findall(r"debian:(\w+)-slim", _CONTAINERFILE)[0]
        base = self._base(
            suite, re.findall(r'^ARG PACKAGES="(.*)"$', _CONTAINERFILE, re.MULTILINE)[0].split()
        )
        wheels = self._wheels(_PYTHON[suite])
        self._podman = self._engine()
        self._call([*self._podman, "import", "--quiet", str(base), "localhost/debian"])
        arguments = {"BASE": "localhost/debian", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
        build_arguments = [
            word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")
        ]
        options = [
            "--network",
            "none",
            "--cgroup-parent",
            self._cgroup,
            *_LIMITS,
            "--volume",
            f"{wheels}:/wheels:ro",
            "--layers=false",
        ]
        self._call(
            [
                *self._podman,
                "build",
                "--quiet",
                *options,
                *build_arguments,
                "--tag",
                "kubenetlab",
                str(ROOT),
            ]
        )

    def _engine(self) -> list[str]:
        """Return the command line of Podman with the overlay driver, or with vfs as a fallback.

        The driver vfs works everywhere, but copies files.
        """
        storage = [
            "--root",
            str(self._directory / "storage"),
            "--runroot",
            str(self._directory / "run"),
        ]
        options = ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        overlay, copying = (
            ["podman", *storage, *options, "--storage-driver", driver]
            for driver in ("overlay", "vfs")
        )
        if self._call([*overlay, "info"], status=None).returncode == 0:
            return overlay
        shutil.rmtree(self._directory / "storage", ignore_errors=True)
        return copying

    def _base(self, suite: str, packages: Sequence[str]) -> Path:
        """Return an archive of a root file system with Debian's packages."""
        cache = Path(os.environ.get("KUBENETLAB_CACHE", ROOT / ".cache"))
        folder = cache if cache.is_dir() else self._directory
        digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
        archive = folder / f"debian-{suite}-{os.uname().machine}-{digest}.tar"
        if archive.exists():
            return archive
        fresh = archive.with_suffix(f".{os.getpid()}")
        options = ["--quiet", "--mode=root", "--variant=minbase", "--format=tar"]
        options += ["--dpkgopt=force-unsafe-io", f"--include={','.join(packages)}"]
        self._call(["mmdebstrap", *options, suite, str(fresh), _MIRROR])
        fresh.rename(archive)
        return archive

    def _wheels(self, python: str) -> Path:
        """Return a folder with the wheels that pip needs to build and install the package."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        required = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
        wheels = self._directory / "wheels"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        choice = [
            "--python-version",
            python,
            "--only-binary=:all:",
            "--constraint",
            str(ROOT / "constraints.txt"),
        ]
        self._call([*pip, *choice, "--dest", str(wheels), *required])
        return wheels

    def _call(
        self, command: Sequence[str], *, status: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        completed = subprocess.run(
            [*self._enter, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=patiently(300),
        )
        assert status in (None, completed.returncode), (
            f"{' '.join(command)} ended with {completed.returncode}\n"
            f"{completed.stdout}{completed.stderr}"
        )
        return completed

    def remove_cgroups(self) -> None:
        """Remove the control groups of the containers.

        With cgroupfs, an engine leaves their parents behind.
        """
        name = self._cgroup.strip("/")
        parents = [*Path("/sys/fs/cgroup").glob(f"*/{name}"), *Path("/sys/fs/cgroup").glob(name)]
        groups = sorted(
            (
                group
                for parent in parents
                for group in (parent, *parent.rglob("*"))
                if group.is_dir()
            ),
            reverse=True,
        )
        for group in groups:
            wait_for(partial(_is_removed, group), f"{group} without processes")


def _is_removed(group: Path) -> bool:
    """Remove a control group; return False while it still has a process."""
    try:
        group.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


@contextmanager
def engine() -> Iterator[Engine]:
    """Yield an engine with the image; remove everything afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="knl-containers-"))
    try:
        command = ["unshare", "--mount", "sh", "-c", _PRIVATE]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            engine = Engine(
                directory, ["nsenter", f"--target={holder.pid}", "--mount", f"--wdns={directory}"]
            )
            try:
                engine.build()
                yield engine
            finally:
                holder.communicate()
                engine.remove_cgroups()
    finally:
        shutil.rmtree(directory)

"""Execution of feature probes, and a cache of those that succeeded.

Each probe runs in its own process. A feature that worked will work until the next boot for every
caller with the same privileges, so it is cached. A probe that failed is run again each time,
because the cause may have been removed. So is one whose programs are no longer installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from kubenetlab import __version__
from kubenetlab.kernel.features.detection import PACKAGES, has_program
from kubenetlab.kernel.processes.inheritance import default_umask
from kubenetlab.kernel.processes.permissions import effective_capabilities, is_root


class FeatureProbe(NamedTuple):
    """A feature, and a function that uses it."""

    name: str
    """Name of the feature in the `needs` of modes."""
    run: Callable[[], None]
    """Function that raises an exception if the feature does not work.

    It is called in a process of its own, which ends afterwards."""
    purpose: str
    remedy: str = ""
    effect_if_missing: str = ""
    """Effect on labs if the feature is missing; empty if labs cannot do without."""
    programs: tuple[str, ...] = ()
    """Required programs and libraries, keys of `detection.PACKAGES`."""
    is_cached: bool = True
    """False if the result depends on files that can change without a reboot."""

    @property
    def advice(self) -> str:
        """Return how to install missing programs, and the remedy."""
        packages = [PACKAGES[program] for program in self.programs if not has_program(program)]
        install = [f"sudo apt-get install {' '.join(packages)}"] if packages else []
        return "; ".join([*install, self.remedy])


class ProbeOutcome(Struct, frozen=True):
    """Result of one probe; `fault` is empty if the feature works."""

    probe: FeatureProbe
    fault: str = ""


class _Record(Struct):
    """Content of the cache: who probed, and the features that worked."""

    asker: str
    worked: list[str]


def run_probes(
    probes: Sequence[FeatureProbe], cache_path: Path | None = None, *, again: bool = False
) -> list[ProbeOutcome]:
    """Run probes and return their results in order.

    cache_path: file of the probes that succeeded before.
    again: ignore the cache.
    """
    cached = set() if again or cache_path is None else _load(cache_path)
    known = cached & {
        probe.name for probe in probes if probe.is_cached and all(map(has_program, probe.programs))
    }
    result = [
        ProbeOutcome(probe, "" if probe.name in known else _run_in_child(probe.run))
        for probe in probes
    ]
    worked = [outcome.probe.name for outcome in result if not outcome.fault]
    if cache_path is not None and (again or set(worked) != cached):
        _save(cache_path, worked)
    return result


def _current_asker() -> str:
    """Identify this boot, the package's version and the caller's privileges.

    Cached results are valid only for the same caller.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    user_namespace = os.readlink("/proc/self/ns/user")
    return f"{boot} {__version__} {os.geteuid()} {effective_capabilities():x} {user_namespace}"


def _load(cache_path: Path) -> set[str]:
    try:
        record = msgspec.json.decode(cache_path.read_bytes(), type=_Record)
        return set(record.worked) if record.asker == _current_asker() else set()
    except (OSError, msgspec.MsgspecError):
        return set()


def _save(cache_path: Path, worked: Sequence[str]) -> None:
    """Replace the cache; do nothing if it cannot be written."""
    try:
        with default_umask():
            cache_path.parent.mkdir(mode=0o755 if is_root() else 0o700, parents=True, exist_ok=True)
            temporary = cache_path.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(msgspec.json.encode(_Record(_current_asker(), list(worked))))
            temporary.replace(cache_path)
    except OSError:
        pass


def _run_in_child(probe: Callable[[], None]) -> str:
    """Run a probe in a child process; return its error message, or an empty string."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            probe()
            os._exit(0)
        except BaseException as error:
            os.write(writing, f"{getattr(error, 'strerror', None) or error}".encode()[:500])
        finally:
            os._exit(1)
    os.close(writing)
    message = os.read(reading, 500).decode()
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return message or ("" if status == 0 else f"the probe exited with status {status}")

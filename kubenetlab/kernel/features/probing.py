"""Finding out by trying: each trial in a process of its own, and what worked is kept.

What worked once works until the next boot, so it is kept, for whoever asks with the same rights. What failed is tried again each time:
perhaps somebody has mended it.
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
    """One thing to be tried."""

    name: str
    """As a mode names it in its needs."""
    try_it: Callable[[], None]
    """Raises when it does not work. Called in a process of its own, which ends then."""
    purpose: str
    remedy: str = ""
    without: str = ""
    """How a lab does without it; nothing where it cannot."""
    programs: tuple[str, ...] = ()
    """Programs and libraries that it needs, keys of `features.PACKAGES`."""
    is_kept: bool = True
    """False where files of the machine decide, which change without a reboot: it is tried each time."""

    @property
    def advice(self) -> str:
        """The packages to install, if any of the programs is missing, and the remedy."""
        packages = [PACKAGES[program] for program in self.programs if not has_program(program)]
        install = [f"sudo apt-get install {' '.join(packages)}"] if packages else []
        return "; ".join([*install, self.remedy])


class ProbeOutcome(Struct, frozen=True):
    """How one trial ended; `fault` is empty when it worked."""

    trial: FeatureProbe
    fault: str = ""


class _Record(Struct):
    """What is kept: who found what out, and when."""

    asker: str
    worked: list[str]


def outcomes(
    trials: Sequence[FeatureProbe], kept: Path | None = None, *, again: bool = False
) -> list[ProbeOutcome]:
    """How trials end, in order. `kept` is the file with what worked before, which is left aside with `again`."""
    before = set() if again or kept is None else _load(kept)
    known = before & {trial.name for trial in trials if trial.is_kept}
    found = [
        ProbeOutcome(trial, "" if trial.name in known else _in_child(trial.try_it))
        for trial in trials
    ]
    worked = [outcome.trial.name for outcome in found if not outcome.fault]
    if kept is not None and (again or set(worked) != before):
        _save(kept, worked)
    return found


def _asker() -> str:
    """This boot, this package, and what whoever asks may do: another answer may hold for others."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {__version__} {os.geteuid()} {effective_capabilities():x} {os.readlink('/proc/self/ns/user')}"


def _load(kept: Path) -> set[str]:
    try:
        record = msgspec.json.decode(kept.read_bytes(), type=_Record)
        return set(record.worked) if record.asker == _asker() else set()
    except (OSError, msgspec.MsgspecError):
        return set()


def _save(kept: Path, worked: Sequence[str]) -> None:
    """By rename; where it cannot be written, it is found out anew the next time."""
    try:
        with default_umask():
            kept.parent.mkdir(mode=0o755 if is_root() else 0o700, parents=True, exist_ok=True)
            fresh = kept.with_suffix(f".{os.getpid()}")
            fresh.write_bytes(msgspec.json.encode(_Record(_asker(), list(worked))))
            fresh.replace(kept)
    except OSError:
        pass


def _in_child(try_it: Callable[[], None]) -> str:
    """Tries something in a process of its own; what went wrong, or nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try_it()
            os._exit(0)
        except BaseException as error:
            os.write(writing, f"{getattr(error, 'strerror', None) or error}".encode()[:500])
        finally:
            os._exit(1)
    os.close(writing)
    said = os.read(reading, 500).decode()
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return said or ("" if status == 0 else f"ended with status {status}")

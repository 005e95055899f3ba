"""What this machine can do, what it lacks, and how much of everything it has: findings in groups, each with what to do."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from kubenetlab.kernel import uplink
from kubenetlab.kernel.features import limits
from kubenetlab.kernel.features.detection import PACKAGES, has_br_netfilter, has_program
from kubenetlab.kernel.features.feature_probes import NAMESPACE_REMEDIES, TRIALS
from kubenetlab.kernel.features.limits import (
    BRIDGE_PORTS,
    FILES,
    MEMORY,
    NAMESPACES,
    NEIGHBORS,
    PROCESSES,
    Limit,
)
from kubenetlab.kernel.features.probing import ProbeOutcome, outcomes
from kubenetlab.kernel.namespaces import pause
from kubenetlab.kernel.processes import cgroups
from kubenetlab.kernel.processes.inheritance import hindrances
from kubenetlab.kernel.processes.limiters import REMEDY, has_groups, limiters
from kubenetlab.kernel.processes.permissions import (
    MOUNT_ROOT,
    ROOT_NOT_MOUNTED,
    effective_capabilities,
    has_mounted_root,
    is_root,
    lacking,
    remedy,
)
from kubenetlab.kernel.rules import nftables

State = Literal["ok", "missing", "optional"]

MACHINE, PERMISSIONS, KERNEL, LIMITS = (
    "This machine",
    "Permissions",
    "The kernel, tried once since it was booted",
    "Limits",
)
INHERITED = "What a lab inherits from this shell"

_SHOWN_LIMITS: Final[Mapping[str, Sequence[str]]] = {
    "processes": (PROCESSES,),
    "open files": (FILES,),
    "user namespaces": (NAMESPACES["user"],),
    "namespaces": tuple(name for word, name in NAMESPACES.items() if word != "user"),
    "memory": (MEMORY,),
    "bridge ports": (BRIDGE_PORTS,),
    "neighbours": (NEIGHBORS,),
}
"""What is shown → the resources of which the scarcest stands for it."""
_UNITS: Final = {
    "open files": " for each process",
    "namespaces": " of each kind",
    "memory": " MB",
    "bridge ports": " a bridge",
    "neighbours": " dynamic ones",
}


class CheckResult(Struct, frozen=True):
    """One thing that was looked at. `missing` means that no lab can be made, `optional` that labs lack something."""

    group: str
    name: str
    state: State
    detail: str
    remedy: str = ""


def examine(kept: Path | None = None, *, again: bool = False) -> list[CheckResult]:
    """Everything that labs need or can use, in order. `kept` is where what was tried is written down, for this boot."""
    permissions = list(_permissions())
    is_allowed = all(finding.state == "ok" for finding in permissions)
    kernel = (
        _kernel(outcomes(TRIALS, kept, again=again))
        if is_allowed
        else [_untried("all", "the permissions above")]
    )
    return [
        *_machine(),
        *permissions,
        *_uplink(),
        _container_limits(limiters()),
        *kernel,
        *_inherited(),
        *_limits(limits.read()),
    ]


def _machine() -> Iterator[CheckResult]:
    yield CheckResult(
        MACHINE,
        "Linux",
        "ok",
        f"{platform.release()} on {platform.machine()}, Python {platform.python_version()}",
    )
    try:
        pause.program()
    except Exception as error:
        yield CheckResult(MACHINE, "processor", "missing", str(error))
    else:
        yield CheckResult(MACHINE, "processor", "ok", "there is a pause program for it")
    where = nftables.LIBRARY if nftables.has_library() else shutil.which("nft") or ""
    if has_program("nft"):
        yield CheckResult(MACHINE, "nft", "ok", f"by {where}")
    else:
        yield CheckResult(
            MACHINE,
            "nft",
            "missing",
            "neither library nor program (for rules)",
            "sudo apt-get install nftables",
        )
    for program, what in (
        ("ip", "to look around inside: exec POD -- ip addr"),
        ("ping", "to ping by hand inside"),
    ):
        found = shutil.which(program)
        if found:
            yield CheckResult(MACHINE, program, "ok", found)
        else:
            yield CheckResult(
                MACHINE,
                program,
                "optional",
                f"missing ({what})",
                f"sudo apt-get install {PACKAGES[program]}",
            )


def _permissions() -> Iterator[CheckResult]:
    if not has_mounted_root():
        yield CheckResult(PERMISSIONS, "root directory", "missing", ROOT_NOT_MOUNTED, MOUNT_ROOT)
    if os.geteuid():
        yield CheckResult(
            PERMISSIONS,
            "user",
            "ok",
            f"an ordinary one (uid {os.geteuid()}): labs are made in a user namespace",
        )
    elif missing := lacking(effective_capabilities()):
        what = "; ".join(f"{name} is lacking, for {purpose}" for name, purpose in missing.items())
        yield CheckResult(PERMISSIONS, "user", "missing", f"root, but {what}", remedy())
    else:
        yield CheckResult(
            PERMISSIONS,
            "user",
            "ok",
            "root, with all that labs need"
            if is_root()
            else "root in a user namespace, which is enough",
        )


def _uplink() -> Iterator[CheckResult]:
    """Whether `up --uplink` links a lab to this machine's own network."""
    if not is_root():
        yield CheckResult(
            PERMISSIONS,
            "uplink",
            "optional",
            "only root of the machine links a lab to its network",
            "sudo kubenetlab up --uplink",
        )
    elif has_program("ip"):
        families = (
            "IPv4 and IPv6"
            if uplink.forwards(6)
            else "IPv4; IPv6 is not forwarded here (net.ipv6.conf.all.forwarding)"
        )
        yield CheckResult(
            PERMISSIONS,
            "uplink",
            "ok",
            f"up --uplink links a lab to this machine's network: {families}",
        )
    else:
        yield CheckResult(
            PERMISSIONS,
            "uplink",
            "optional",
            "no up --uplink without ip",
            f"sudo apt-get install {PACKAGES['ip']}",
        )


def _container_limits(found: Mapping[str, str]) -> CheckResult:
    """Report what limits containers that run real commands."""
    detail = f"memory is limited by {found[cgroups.MEMORY]}, processes {f'by {found[cgroups.PIDS]}' if found[cgroups.PIDS] else 'are not'}"
    is_complete = has_groups(found)
    return CheckResult(
        PERMISSIONS,
        "container limits",
        "ok" if is_complete else "optional",
        detail,
        "" if is_complete else REMEDY,
    )


def _kernel(found: Sequence[ProbeOutcome]) -> Iterator[CheckResult]:
    first = found[0]
    for outcome in found:
        trial = outcome.trial
        if not outcome.fault:
            yield CheckResult(KERNEL, trial.name, "ok", trial.purpose)
        elif outcome is first:
            yield CheckResult(
                KERNEL,
                trial.name,
                "missing",
                outcome.fault,
                NAMESPACE_REMEDIES.get(outcome.fault) or remedy(),
            )
        elif first.fault:
            yield _untried(trial.name, first.trial.name)
        elif trial.without:
            yield CheckResult(
                KERNEL, trial.name, "optional", f"{outcome.fault}: {trial.without}", trial.advice
            )
        else:
            yield CheckResult(
                KERNEL,
                trial.name,
                "missing",
                f"{outcome.fault} (for {trial.purpose})",
                trial.advice,
            )
    if has_br_netfilter():
        yield CheckResult(KERNEL, "br_netfilter", "ok", "pods can share their node's bridge")
    else:
        yield CheckResult(
            KERNEL,
            "br_netfilter",
            "optional",
            "missing: pods will be /32, routed by their node",
            "sudo modprobe br_netfilter (it changes the machine's own bridges too)",
        )


def _untried(name: str, lacking: str) -> CheckResult:
    return CheckResult(KERNEL, name, "optional", f"not known without {lacking}")


def _limits(found: Sequence[Limit]) -> Iterator[CheckResult]:
    """The scarcest of each kind: what a lab would hit first."""
    for name, resources in _SHOWN_LIMITS.items():
        of_kind = [limit for limit in found if limit.resource in resources]
        if not of_kind or (name == "user namespaces" and not os.geteuid()):
            continue
        limit = min(of_kind, key=lambda limit: limit.room)
        unit = _UNITS.get(name, "")
        amount = (
            f"{limit.used:,} of {limit.maximum:,}{unit} taken"
            if limit.used is not None
            else f"{limit.maximum:,}{unit}"
        )
        state: State = "ok" if limit.room else "missing"
        yield CheckResult(
            LIMITS,
            name,
            state,
            f"{amount} ({limit.setting})",
            "" if limit.room else limit.remedy.format(enough=limit.maximum + 1000),
        )


def _inherited() -> Iterator[CheckResult]:
    """Hard limits, scheduling policy and the like, of which a lab keeps those of the command that makes it."""
    found = [
        CheckResult(INHERITED, entry.name, "optional", entry.detail, entry.remedy)
        for entry in hindrances(is_root=is_root())
    ]
    yield from found or [CheckResult(INHERITED, "all of it", "ok", "nothing that harms a lab")]

"""The checks of `kubenetlab doctor`: features of the machine, its permissions and its limits."""

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
from kubenetlab.kernel.features.feature_probes import NAMESPACE_REMEDIES, PROBES
from kubenetlab.kernel.features.limits import (
    BRIDGE_PORTS,
    FILES,
    MEMORY,
    NAMESPACES,
    NEIGHBORS,
    PROCESSES,
    Limit,
)
from kubenetlab.kernel.features.probing import ProbeOutcome, run_probes
from kubenetlab.kernel.namespaces import pause
from kubenetlab.kernel.processes import cgroups
from kubenetlab.kernel.processes.inheritance import inherited_problems
from kubenetlab.kernel.processes.limiters import REMEDY, has_groups, limiters
from kubenetlab.kernel.processes.permissions import (
    MOUNT_ROOT,
    ROOT_NOT_MOUNTED,
    effective_capabilities,
    has_mounted_root,
    is_root,
    missing_capabilities,
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
"""Name of a check → resources; the check shows the scarcest of them."""
_UNITS: Final = {
    "open files": " for each process",
    "namespaces": " of each kind",
    "memory": " MB",
    "bridge ports": " a bridge",
    "neighbours": " dynamic ones",
}


class CheckResult(Struct, frozen=True):
    """Result of one check.

    State `missing`: no lab can be created. State `optional`: labs lack a feature.
    """

    group: str
    name: str
    state: State
    detail: str
    remedy: str = ""


def check_machine(cache_path: Path | None = None, *, again: bool = False) -> list[CheckResult]:
    """Check everything that labs need or can use; return the results in order of display.

    cache_path: file of the probes that succeeded since the last boot.
    again: probe all features, also those in the cache.
    """
    permissions = list(_permissions())
    is_allowed = all(result.state == "ok" for result in permissions)
    kernel = (
        _kernel(run_probes(PROBES, cache_path, again=again))
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
        *_limits(limits.read_limits()),
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
        yield CheckResult(MACHINE, "processor", "ok", "supported by the pause program")
    nft = nftables.LIBRARY if nftables.has_library() else shutil.which("nft") or ""
    if has_program("nft"):
        yield CheckResult(MACHINE, "nft", "ok", f"by {nft}")
    else:
        yield CheckResult(
            MACHINE,
            "nft",
            "missing",
            "neither library nor program is installed (loads rules)",
            "sudo apt-get install nftables",
        )
    for program, use in (
        ("ip", "for commands such as exec POD -- ip addr"),
        ("ping", "for commands such as exec POD -- ping ADDRESS"),
    ):
        path = shutil.which(program)
        if path:
            yield CheckResult(MACHINE, program, "ok", path)
        else:
            yield CheckResult(
                MACHINE,
                program,
                "optional",
                f"missing ({use})",
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
            f"ordinary user (uid {os.geteuid()}): labs are created in a user namespace",
        )
    elif missing := missing_capabilities(effective_capabilities()):
        explanation = "; ".join(
            f"{name} is missing (for {purpose})" for name, purpose in missing.items()
        )
        yield CheckResult(PERMISSIONS, "user", "missing", f"root, but {explanation}", remedy())
    else:
        yield CheckResult(
            PERMISSIONS,
            "user",
            "ok",
            "root, with all required capabilities"
            if is_root()
            else "root in a user namespace, which is sufficient",
        )


def _uplink() -> Iterator[CheckResult]:
    """Check whether `up --uplink` can connect a lab to this machine's network."""
    if not is_root():
        yield CheckResult(
            PERMISSIONS,
            "uplink",
            "optional",
            "only root of the machine can connect a lab to its network",
            "sudo kubenetlab up --uplink",
        )
    else:
        families = (
            "IPv4 and IPv6"
            if uplink.forwards(6)
            else "IPv4; this machine does not forward IPv6 (net.ipv6.conf.all.forwarding)"
        )
        yield CheckResult(
            PERMISSIONS,
            "uplink",
            "ok",
            f"up --uplink connects a lab to this machine's network: {families}",
        )


def _container_limits(by_controller: Mapping[str, str]) -> CheckResult:
    """Report the mechanism that limits containers with real commands."""
    pids = by_controller[cgroups.PIDS]
    processes = f"processes by {pids}" if pids else "processes are not"
    detail = f"memory is limited by {by_controller[cgroups.MEMORY]}, {processes}"
    is_complete = has_groups(by_controller)
    return CheckResult(
        PERMISSIONS,
        "container limits",
        "ok" if is_complete else "optional",
        detail,
        "" if is_complete else REMEDY,
    )


def _kernel(probed: Sequence[ProbeOutcome]) -> Iterator[CheckResult]:
    first = probed[0]
    for outcome in probed:
        probe = outcome.probe
        if not outcome.fault:
            yield CheckResult(KERNEL, probe.name, "ok", probe.purpose)
        elif outcome is first:
            yield CheckResult(
                KERNEL,
                probe.name,
                "missing",
                outcome.fault,
                NAMESPACE_REMEDIES.get(outcome.fault) or remedy(),
            )
        elif first.fault:
            yield _untried(probe.name, first.probe.name)
        elif probe.effect_if_missing:
            yield CheckResult(
                KERNEL,
                probe.name,
                "optional",
                f"{outcome.fault}: {probe.effect_if_missing}",
                probe.advice,
            )
        else:
            yield CheckResult(
                KERNEL,
                probe.name,
                "missing",
                f"{outcome.fault} (for {probe.purpose})",
                probe.advice,
            )
    if has_br_netfilter():
        yield CheckResult(KERNEL, "br_netfilter", "ok", "pods can share their node's bridge")
    else:
        yield CheckResult(
            KERNEL,
            "br_netfilter",
            "optional",
            "missing: pods get /32 addresses, routed by their node",
            "sudo modprobe br_netfilter (this changes the machine's own bridges, too)",
        )


def _untried(name: str, lacking: str) -> CheckResult:
    return CheckResult(KERNEL, name, "optional", f"unknown: it requires {lacking}")


def _limits(all_limits: Sequence[Limit]) -> Iterator[CheckResult]:
    """Report the scarcest resource of each kind, which a lab would exhaust first."""
    for name, resources in _SHOWN_LIMITS.items():
        of_kind = [limit for limit in all_limits if limit.resource in resources]
        if not of_kind or (name == "user namespaces" and not os.geteuid()):
            continue
        limit = min(of_kind, key=lambda limit: limit.available)
        unit = _UNITS.get(name, "")
        amount = (
            f"{limit.used:,} of {limit.maximum:,}{unit} taken"
            if limit.used is not None
            else f"{limit.maximum:,}{unit}"
        )
        state: State = "ok" if limit.available else "missing"
        yield CheckResult(
            LIMITS,
            name,
            state,
            f"{amount} ({limit.setting})",
            "" if limit.available else limit.remedy.format(enough=limit.maximum + 1000),
        )


def _inherited() -> Iterator[CheckResult]:
    """Report hard limits, scheduling policy and other attributes that a lab inherits."""
    results = [
        CheckResult(INHERITED, entry.name, "optional", entry.detail, entry.remedy)
        for entry in inherited_problems(is_root=is_root())
    ]
    yield from results or [CheckResult(INHERITED, "all of it", "ok", "nothing harms a lab")]

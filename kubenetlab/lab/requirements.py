"""What a cluster asks of the machine, checked before the work begins: permissions, programs, the kernel's IP versions.

How much room there is is another question (room.py). What every lab needs of the kernel, doctor finds out by trying; what only some
modes need is tried for those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import structs

from kubenetlab.api.config import ClusterConfig
from kubenetlab.datapath import modes
from kubenetlab.datapath.modes import Needs
from kubenetlab.errors import RequirementError
from kubenetlab.kernel.features.detection import has_ipv6, has_program, install_hint
from kubenetlab.kernel.processes.permissions import is_root, require_permissions


def require(config: ClusterConfig) -> None:
    """Raises RequirementError with everything that this machine lacks for a cluster."""
    require_permissions()
    require_modes(config)


def require_modes(config: ClusterConfig, before: ClusterConfig | None = None) -> None:
    """The same for a lab that runs already and may be given other modes; what those `before` needed of the kernel is not tried again."""
    found: list[str] = []
    had = (
        {feature for _, needs in chosen(before) for feature in needs.features}
        if before is not None
        else set()
    )
    for title, needs in chosen(config):
        new = structs.replace(
            needs, features=tuple(feature for feature in needs.features if feature not in had)
        )
        found += list(
            faults(title, needs, is_root=is_root(), has_program=has_program)
        ) or unsupported(title, new)
    if 6 in config.networking.versions and not has_ipv6():
        found.append(
            "this kernel has no IPv6, which networking.ipFamily asks for; boot it without ipv6.disable=1"
        )
    if found:
        raise RequirementError(
            "\n".join([*dict.fromkeys(found), "see kubenetlab doctor"])
            if len(found) > 1
            else f"{found[0]}; see kubenetlab doctor"
        )


def chosen(config: ClusterConfig) -> Iterator[tuple[str, Needs]]:
    """(`cni bridge`, what it needs) of each mode of a cluster."""
    if config.uplink:
        yield "uplink", Needs(programs=("ip",), root="a link to the machine's own network")
    for family in modes.FAMILIES.values():
        name, options = family.chosen(config.networking)
        yield f"{family.name} {name}", modes.load(family.name, name, options).needs


def faults(
    title: str, needs: Needs, *, is_root: bool, has_program: Callable[[str], bool]
) -> Iterator[str]:
    """What stands in a mode's way. Nothing takes its place silently: who cannot have it is told."""
    if needs.root and not is_root:
        yield f"{title} needs root of the machine ({needs.root}), which a user namespace does not give: run kubenetlab up as root (sudo)"
    for program in needs.programs:
        if not has_program(program):
            yield f"this machine lacks {install_hint(program)}, for {title}"


def unsupported(title: str, needs: Needs) -> Iterator[str]:
    """What the kernel refuses of that which a mode needs and other modes do without."""
    from kubenetlab.kernel.features.feature_probes import TRIALS
    from kubenetlab.kernel.features.probing import outcomes

    for outcome in outcomes(
        [trial for trial in TRIALS if trial.without and trial.name in needs.features]
    ):
        if outcome.fault:
            yield f"{title} needs {outcome.trial.name}: {outcome.fault}; wanted: {outcome.trial.advice}"

"""Requirements of a cluster: permissions, programs, IP versions and kernel features.

They are checked before a lab is created. Capacity is checked separately (capacity.py). `kubenetlab
doctor` probes the kernel features that every lab needs; features that only some modes need are
probed here, if such a mode is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import structs

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.links import link_settings
from kubenetlab.datapath import modes
from kubenetlab.datapath.modes import Needs
from kubenetlab.errors import RequirementError
from kubenetlab.kernel.features.detection import has_ipv6, has_program, install_hint
from kubenetlab.kernel.processes.permissions import is_root, require_permissions


def require(config: ClusterConfig) -> None:
    """Raise RequirementError with everything that this machine lacks for a cluster."""
    require_permissions()
    require_modes(config)


def require_modes(config: ClusterConfig, before: ClusterConfig | None = None) -> None:
    """Raise RequirementError with everything that this machine lacks for the modes of a cluster.

    before: configuration of the running lab, whose kernel features are not probed again.
    """
    problems: list[str] = []
    probed = (
        {feature for _, needs in selected_modes(before) for feature in needs.own_features}
        if before is not None
        else set()
    )
    for title, needs in selected_modes(config):
        unprobed = tuple(feature for feature in needs.own_features if feature not in probed)
        new = structs.replace(needs, own_features=unprobed)
        problems += list(
            unmet_requirements(title, needs, is_root=is_root(), has_program=has_program)
        ) or missing_features(title, new)
    if 6 in config.networking.versions and not has_ipv6():
        problems.append(
            "this kernel has no IPv6, which networking.ipFamily asks for; "
            "boot it without ipv6.disable=1"
        )
    if problems:
        raise RequirementError(
            "\n".join([*dict.fromkeys(problems), "see kubenetlab doctor"])
            if len(problems) > 1
            else f"{problems[0]}; see kubenetlab doctor"
        )


def selected_modes(config: ClusterConfig) -> Iterator[tuple[str, Needs]]:
    """Yield title and needs of each selected mode of a cluster; a title is `cni bridge`."""
    if config.uplink:
        yield "uplink", Needs(root="a link to the machine's own network")
    settings = [link_settings(config, name) for name in config.node_names]
    if any(link.needs_netem for link in settings):
        yield "fabric.links with delay or loss", Needs(own_features=("netem",))
    elif any(link.is_shaped for link in settings):
        yield "fabric.links with a rate", Needs(own_features=("tbf",))
    for family in modes.FAMILIES.values():
        name, options = family.chosen(config.networking)
        yield f"{family.name} {name}", modes.load(family.name, name, options).requirements


def unmet_requirements(
    title: str, needs: Needs, *, is_root: bool, has_program: Callable[[str], bool]
) -> Iterator[str]:
    """Yield the missing permissions and programs of a mode.

    An unmet requirement is reported; another mode never replaces it silently.
    """
    if needs.root and not is_root:
        yield (
            f"{title} needs root of the machine ({needs.root}), "
            "which a user namespace does not give: run kubenetlab up as root (sudo)"
        )
    for program in needs.programs:
        if not has_program(program):
            yield f"this machine lacks {install_hint(program)}, for {title}"


def missing_features(title: str, needs: Needs) -> Iterator[str]:
    """Yield the kernel features that only some modes need and that are not available here."""
    if not needs.own_features:
        return  # most labs: the probes take long to import
    from kubenetlab.kernel.features.feature_probes import PROBES
    from kubenetlab.kernel.features.probing import run_probes

    for outcome in run_probes([trial for trial in PROBES if trial.name in needs.own_features]):
        if outcome.fault:
            yield (
                f"{title} needs {outcome.probe.name}: {outcome.fault}; "
                f"required: {outcome.probe.advice}"
            )

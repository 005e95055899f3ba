"""Requirements of a cluster: permissions, programs, IP versions and kernel features.

They are checked before a lab is created. Capacity is checked separately (capacity.py). `kubenetlab
doctor` probes the kernel features that every lab needs; features that only some modes need are
probed here, if such a mode is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from msgspec import structs

from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.links import link_settings
from kubenetlab.api.manifests.load import ManifestObject
from kubenetlab.api.text.decode import Finding
from kubenetlab.datapath import modes
from kubenetlab.datapath.modes import Needs
from kubenetlab.datapath.network.pool_tunnels import pool_features
from kubenetlab.errors import RequirementError
from kubenetlab.kernel.features.detection import (
    PLUGINS_PACKAGE,
    has_ipv6,
    has_program,
    install_hint,
)
from kubenetlab.kernel.features.probing import ProbeOutcome
from kubenetlab.kernel.processes.cni_plugins import plugin_path
from kubenetlab.kernel.processes.permissions import is_root, require_permissions


def require(config: ClusterConfig, entries: Sequence[ManifestObject] = ()) -> None:
    """Raise RequirementError with everything that this machine lacks for a cluster.

    entries: objects of the manifests, some of which use kernel features.
    """
    require_permissions()
    require_modes(config)
    places = {entry.title: entry for entry in entries}
    pools = [entry.object for entry in entries if isinstance(entry.object, IPPool)]
    raise_unmet(
        str(places[pool.title].problem(finding)) for pool, finding in pool_findings(config, pools)
    )


def require_modes(config: ClusterConfig, before: ClusterConfig | None = None) -> None:
    """Raise RequirementError with everything that this machine lacks for the modes of a cluster.

    before: configuration of the running lab, whose kernel features are not probed again.
    """
    problems: list[str] = []
    probed = used_features(before, ()) if before is not None else set()
    as_root = is_root()
    for title, needs in selected_modes(config):
        unprobed = tuple(feature for feature in needs.own_features if feature not in probed)
        new = structs.replace(needs, own_features=unprobed)
        problems += list(
            unmet_requirements(title, needs, is_root=as_root, has_program=has_program)
        ) or missing_features(title, new)
    if 6 in config.networking.versions and not has_ipv6():
        problems.append(
            "this kernel has no IPv6, which networking.ipFamily asks for; "
            "boot it without ipv6.disable=1"
        )
    raise_unmet(problems)


def raise_unmet(problems: Iterable[str]) -> None:
    """Raise RequirementError with all distinct problems, if there are any."""
    distinct = list(dict.fromkeys(problems))
    if distinct:
        raise RequirementError(
            "\n".join([*distinct, "see kubenetlab doctor"])
            if len(distinct) > 1
            else f"{distinct[0]}; see kubenetlab doctor"
        )


def pool_findings(
    config: ClusterConfig, pools: Iterable[IPPool], known: Collection[str] = ()
) -> Iterator[tuple[IPPool, Finding]]:
    """Yield (pool, finding) for the kernel features that IPPools need and that are not available.

    known: features that need no probe.
    """
    cni = modes.load("cni", *config.networking.cni_mode)
    used = [
        (pool, field, feature)
        for pool in pools
        if pool.spec.network.version in config.networking.versions
        for field, feature in pool_features(cni, pool).items()
    ]
    unprobed = {feature for _, _, feature in used} - {*known, *cni.requirements.own_features}
    unavailable = {outcome.probe.name: outcome for outcome in unavailable_features(unprobed)}
    for pool, field, feature in used:
        if (outcome := unavailable.get(feature)) is not None:
            message = f"needs the kernel feature {feature}: {outcome.fault}"
            hint = f"required: {outcome.probe.advice}"
            yield pool, Finding(("spec", field), message, hints=(hint,))


def used_features(config: ClusterConfig, pools: Iterable[IPPool]) -> set[str]:
    """Return the kernel features that the modes of a cluster and its IPPools use."""
    cni = modes.load("cni", *config.networking.cni_mode)
    features = {feature for pool in pools for feature in pool_features(cni, pool).values()}
    return features | {name for _, needs in selected_modes(config) for name in needs.own_features}


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
        if family.name == "policy" and config.networking.policy_engine is None:
            continue  # another engine replaces a default one that cannot run here (decisions.py)
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


def missing_plugins(title: str, needs: Needs) -> Iterator[str]:
    """Yield the CNI plugins that a mode calls and that are not installed, in one message.

    They are no requirement of a lab: its pods wait, with an event that names the plugin.
    """
    plugins = needs.plugins
    if missing := [name for name in plugins if plugin_path(name, plugins[name]) is None]:
        yield (
            f"no CNI plugins {', '.join(missing)} in {', '.join(plugins[missing[0]])} "
            f"(apt-get install {PLUGINS_PACKAGE}), for {title}"
        )


def missing_features(title: str, needs: Needs) -> Iterator[str]:
    """Yield the kernel features that only some modes need and that are not available here."""
    for outcome in unavailable_features(needs.own_features):
        yield (
            f"{title} needs {outcome.probe.name}: {outcome.fault}; required: {outcome.probe.advice}"
        )


def unavailable_features(names: Collection[str]) -> list[ProbeOutcome]:
    """Probe features of the kernel; return the results of those that are not available."""
    if not names:
        return []  # most labs: the probes take long to import
    from kubenetlab.kernel.features.feature_probes import PROBES
    from kubenetlab.kernel.features.probing import run_probes

    outcomes = run_probes([probe for probe in PROBES if probe.name in names])
    return [outcome for outcome in outcomes if outcome.fault]

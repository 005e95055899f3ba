"""Decisions about a store that depend on the kernel and the programs of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

from kubenetlab.api.lab import Decisions
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import modes
from kubenetlab.datapath.decisions import decide
from kubenetlab.kernel.features.detection import has_br_netfilter, has_command, has_program
from kubenetlab.kernel.processes.permissions import is_root
from kubenetlab.lab import rundir

Decide = Callable[[Cluster], Decisions]
"""Function that returns the decisions for a store."""


def decisions(cluster: Cluster) -> Decisions:
    """Return the decisions for a store on this machine."""
    return decide(
        cluster,
        has_br_netfilter=has_br_netfilter(),
        has_command=_has_visible_command,
        engine_fault=_engine_fault,
    )


@cache
def _engine_fault(name: str) -> str:
    """Return a requirement of a policy engine that this machine lacks, or an empty text."""
    from kubenetlab.lab.requirements import missing_features, unmet_requirements

    title, needs = f"policy {name}", modes.load("policy", name, {}).requirements
    unmet = unmet_requirements(title, needs, is_root=is_root(), has_program=has_program)
    return next(unmet, "") or next(missing_features(title, needs), "")


def _has_visible_command(command: str) -> bool:
    """Return True for a program of this machine that containers can see."""
    from kubenetlab.kernel.namespaces.mounts import OWN_DIRECTORIES

    hidden = (*rundir.hidden_directories(), *OWN_DIRECTORIES)
    return has_command(command) and not any(
        os.path.normpath(command).startswith(f"{directory}/") for directory in hidden
    )

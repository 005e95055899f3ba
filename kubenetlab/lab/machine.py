"""Decisions about a store that depend on the kernel and the programs of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable

from kubenetlab.api.lab import Decisions
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.decisions import decide
from kubenetlab.kernel.features.detection import has_br_netfilter, has_command
from kubenetlab.lab import rundir

Decide = Callable[[Cluster], Decisions]
"""Function that returns the decisions for a store."""


def decisions(cluster: Cluster) -> Decisions:
    """Return the decisions for a store on this machine."""
    return decide(cluster, has_br_netfilter=has_br_netfilter(), has_command=_has_visible_command)


def _has_visible_command(command: str) -> bool:
    """Return True for a program of this machine that containers can see."""
    from kubenetlab.kernel.namespaces.mounts import OWN_DIRECTORIES

    hidden = (*rundir.hidden_directories(), *OWN_DIRECTORIES)
    return has_command(command) and not any(
        os.path.normpath(command).startswith(f"{directory}/") for directory in hidden
    )

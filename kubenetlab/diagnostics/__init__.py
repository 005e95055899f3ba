"""What is doubtful in a lab's objects although Kubernetes accepts them: from the store alone, nothing is probed.

Two kinds of things: objects that the lab keeps without enforcing them, so that a result says less than it seems to; and
misconfigurations that a cluster punishes with refused connections, names that do not resolve, or pods that never get ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from kubenetlab.api.store import Cluster
from kubenetlab.diagnostics.model import (
    NOT_ENFORCED,
    PORT_NOT_SERVED,
    Connection,
    Diagnostic,
    Scope,
)
from kubenetlab.diagnostics.pods import check_pods
from kubenetlab.diagnostics.services import check_services
from kubenetlab.diagnostics.templates import Templates
from kubenetlab.diagnostics.unenforced import check_unenforced

CHECKS: Final[tuple[Callable[[Cluster, Templates], Iterator[Diagnostic]], ...]] = (
    check_unenforced,
    check_services,
    check_pods,
)

MISCONFIGURATIONS: Final = (
    "selector-matches-no-pod",
    "port-name-unknown",
    PORT_NOT_SERVED,
    "no-selector-no-endpoints",
    "external-name-is-address",
    "probe-cannot-succeed",
    "no-such-node",
    "no-node-fits",
)
"""Codes of everything but objects that are not enforced."""

__all__ = [
    "CHECKS",
    "MISCONFIGURATIONS",
    "NOT_ENFORCED",
    "PORT_NOT_SERVED",
    "Connection",
    "Diagnostic",
    "Scope",
    "diagnose",
    "refused_codes",
]


def diagnose(cluster: Cluster, real_commands: Sequence[str] = ()) -> tuple[Diagnostic, ...]:
    """Return everything doubtful, in the order of the checks and of the objects.

    real_commands: commands that the lab runs as programs of this machine; nothing is known of their ports.
    """
    templates = Templates(cluster, real_commands)
    return tuple(diagnostic for check in CHECKS for diagnostic in check(cluster, templates))


def refused_codes(*, allow_undeclared: bool) -> list[str]:
    """Return the codes that are errors where misconfigurations are to be errors."""
    return [
        code for code in MISCONFIGURATIONS if not (allow_undeclared and code == PORT_NOT_SERVED)
    ]

"""Which processes a lab has, and everything they need, imported once before any of them is forked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from kubenetlab.lab import agent, coredns, lab_api, node_agent, rules, runs, server, worker
from kubenetlab.lab.init import Boot, Role

__all__ = ["asyncio", "in_pod", "lab_api", "permanent", "rules", "runs", "server"]


def permanent(boot: Boot) -> Sequence[tuple[str, Role]]:
    """(name, what to run) of the processes that are always there."""
    return [
        ("agent", agent.main),
        ("node-agent", node_agent.main),
        *((f"worker-{number}", lambda boot, number=number: worker.main(boot, number)) for number in range(boot.workers)),
    ]


def in_pod(role: str, arguments: dict[str, Any]) -> Role:
    """What to run for a program that is a process of its own. Raises KeyError for one that is not."""
    return {"coredns": lambda boot: coredns.main(boot, arguments)}[role]

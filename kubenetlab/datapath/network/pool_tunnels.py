"""Tunnels that the pools of addresses of a CNI mode ask for, whatever the options of the mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from kubenetlab.api.calico.ip_pools import IPPool


@runtime_checkable
class PoolMode(Protocol):
    """Interface of a CNI mode whose IPPools select tunnels, in addition to that of a mode."""

    def pool_features(self, pool: IPPool) -> Mapping[str, str]:
        """Return field of a pool's spec → kernel feature that its value needs."""


def pool_features(mode: object, pool: IPPool) -> Mapping[str, str]:
    """Return field of a pool's spec → kernel feature; nothing for a mode without such pools."""
    return mode.pool_features(pool) if isinstance(mode, PoolMode) else {}

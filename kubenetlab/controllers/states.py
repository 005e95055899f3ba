"""Memory of the controllers between two runs, as a value that the caller holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from kubenetlab.api.object_map import Cursor

BATCH_LIMIT: Final = 100
"""Maximum number of pods created or deleted per workload and run in a running lab.

The agent answers clients between two batches.
Source: k8s.io/kubernetes pkg/controller/replicaset (BurstReplicas, which is 500 there).
"""


class ControllerState(Struct, frozen=True):
    """Memory of one controller: what it has seen, and when it must run again."""

    seen: Cursor
    """The objects that it watches, as it has seen them in its last run."""
    wake_at: float | None
    """Time of its next `Wake`, in seconds since 1970; None without one."""

    def is_due(self, now: float) -> bool:
        """Return True if its `Wake` is due."""
        return self.wake_at is not None and self.wake_at <= now


class ControllerStates(Struct, frozen=True):
    """Memory of all controllers: where the next run continues.

    The value belongs to one line of stores, but remains valid for any store: a controller gets all
    differences between what it has seen and the store that it runs on.
    """

    batch_limit: int | None = None
    """Maximum number of pods created or deleted per workload and run; None for no limit."""
    by_name: Mapping[str, ControllerState] = {}
    """Name of a controller → its memory. A controller that is missing has seen nothing."""

    @property
    def wake_at(self) -> float | None:
        """Time of the next `Wake` of any controller, in seconds since 1970; None without one."""
        times = (state.wake_at for state in self.by_name.values() if state.wake_at is not None)
        return min(times, default=None)

"""Serials: the numbers from which controllers draw the names and uids of what they make, so that no two are alike."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from kubenetlab.api.lab import AllocationState
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Change, Cluster
from kubenetlab.controllers.admission import make_uid


class Serials:
    """One controller's draws in one round; `changes` writes down how far they went."""

    def __init__(self, cluster: Cluster) -> None:
        self._ledger = cluster.get(AllocationState, "", "ledger") or AllocationState()
        self._drawn: dict[str, int] = {}

    def __getitem__(self, owner: Resource) -> int:
        """How many children the owner has made."""
        return self._drawn.get(owner.uid, self._ledger.serials.get(owner.uid, 0))

    def __setitem__(self, owner: Resource, serial: int) -> None:
        self._drawn[owner.uid] = serial

    def child_uid(self, kind: str, owner: Resource, name: str) -> str:
        """The uid of a new child, which no other of the owner's has had; counts it."""
        self[owner] = serial = self[owner] + 1
        return make_uid(kind, owner.uid, name, str(serial))

    def changes(self) -> Iterator[Change]:
        if self._drawn:
            yield structs.replace(self._ledger, serials={**self._ledger.serials, **self._drawn})

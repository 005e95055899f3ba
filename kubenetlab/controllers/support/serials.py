"""Serials: counters per owner, from which the names and uids of its children are derived."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from kubenetlab.api.lab import AllocationState
from kubenetlab.api.meta import Resource
from kubenetlab.api.store import Change, Cluster
from kubenetlab.controllers.admission.admission import make_uid


class Serials:
    """Counters that one controller uses in one run; `changes` stores them."""

    def __init__(self, cluster: Cluster) -> None:
        self._allocations = cluster.get(AllocationState, "", "ledger") or AllocationState()
        self._used: dict[str, int] = {}

    def __getitem__(self, owner: Resource) -> int:
        """Return the number of serials that the owner has used."""
        return self._used.get(owner.uid, self._allocations.serials.get(owner.uid, 0))

    def __setitem__(self, owner: Resource, serial: int) -> None:
        self._used[owner.uid] = serial

    def child_uid(self, kind: str, owner: Resource, name: str) -> str:
        """Return the uid of a new child, unique among the owner's children, and count it."""
        self[owner] = serial = self[owner] + 1
        return make_uid(kind, owner.uid, name, str(serial))

    def changes(self) -> Iterator[Change]:
        if self._used:
            yield structs.replace(
                self._allocations, serials={**self._allocations.serials, **self._used}
            )

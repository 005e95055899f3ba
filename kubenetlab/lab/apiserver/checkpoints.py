"""Checkpoint of a lab: the store to which `reset` returns."""

from __future__ import annotations

from pathlib import Path

from kubenetlab.api.store import Cluster
from kubenetlab.lab import rundir
from kubenetlab.lab.store import store_file


class Checkpoints:
    """The latest checkpoint of a lab, in memory and in a file that the next agent reads."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / rundir.CHECKPOINT
        self._latest: Cluster | None = None

    def create(self, cluster: Cluster) -> None:
        """Remember a store. Raises OSError."""
        store_file.save(cluster, self._path)
        self._latest = cluster

    def read(self) -> Cluster | None:
        """Return the store of the latest checkpoint; None if there is none. Raises StoreError."""
        if self._latest is None and self._path.exists():
            self._latest = store_file.load(self._path)
        return self._latest

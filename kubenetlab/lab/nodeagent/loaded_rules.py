"""Rules of one node, with the loaders of their rule backends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.rules.rulesets import OwnedName
from kubenetlab.hoststate.rules.transactions import Transaction
from kubenetlab.kernel.processes.identity import Process
from kubenetlab.kernel.rules import nftables
from kubenetlab.kernel.rules.backends import (
    ComparingLoader,
    Loader,
    MaintainedLoader,
    RulesError,
    WatchingLoader,
    open_loader,
)
from kubenetlab.lab.messages.node_agent import RulesLoaded, RulesRefused

LARGE_BYTES = 64 * 1024
"""Size of a rule script from which on its loader keeps memory that it does not release."""


class LoadedRules:
    """Rules of one node, and their loaders, which stay open until its pause process exits."""

    def __init__(self, node: Process, home: int) -> None:
        self.node = node
        self._home = home
        self._loaders: dict[str, Loader] = {}
        with node.network(home):
            self._generations = nftables.Generations()
        self._last_generation = self._generations.read()
        self._grown: set[str] = set()
        """Rule backends whose loaders have loaded a large script."""

    def run(self, transactions: Sequence[Transaction]) -> RulesLoaded | RulesRefused:
        """Run transactions until one fails; return the new generation, or the error."""
        start = time.perf_counter()
        for transaction in transactions:
            if len(transaction.text) > LARGE_BYTES:
                self._grown.add(transaction.backend)
            try:
                self._loader(transaction.backend).run(transaction.text)
            except (RulesError, RequirementError) as error:
                return RulesRefused(str(error), transaction.backend)
        took_ms = round((time.perf_counter() - start) * 1000, 2)
        return RulesLoaded(self.generation(), took_ms)

    @property
    def backends(self) -> tuple[str, ...]:
        """Names of the rule backends with an open loader."""
        return tuple(self._loaders)

    def generation(self) -> int:
        """Read the generation of the node's nftables ruleset and remember it for `has_drift`."""
        self._last_generation = self._generations.read()
        return self._last_generation

    def has_drift(self) -> bool:
        """Return True if another program has changed rules.

        That is the case if the generation differs from the one read last, or if a loader finds
        a difference.
        """
        before = self._last_generation
        # A list, so that every loader is asked.
        touched = [
            loader.has_drift()
            for loader in self._loaders.values()
            if isinstance(loader, ComparingLoader)
        ]
        return self.generation() != before or any(touched)

    def maintain(self) -> None:
        """Run the periodic work of the loaders that have some."""
        for loader in self._loaders.values():
            if isinstance(loader, MaintainedLoader):
                loader.maintain()

    def shrink(self) -> bool:
        """Close loaders that have loaded a large script; the next use opens new ones.

        Loaders that watch, maintain or compare rules stay open. Return True if any backend has
        loaded a large script since the last call.
        """
        had_grown = bool(self._grown)
        for name in self._grown & self._loaders.keys():
            if not isinstance(
                self._loaders[name], WatchingLoader | MaintainedLoader | ComparingLoader
            ):
                self._loaders.pop(name).close()
        self._grown.clear()
        return had_grown

    def listed(self, backend: str, names: Sequence[OwnedName]) -> object:
        """Return the loaded objects with these names, as plain data."""
        return self._loader(backend).listed(names)

    def text(self, backend: str) -> str:
        """Return everything loaded by a backend, as the backend's own program prints it."""
        return self._loader(backend).text()

    def close(self) -> None:
        """Close all loaders; the rules stay in the kernel."""
        for loader in self._loaders.values():
            if isinstance(loader, WatchingLoader):
                asyncio.get_running_loop().remove_reader(loader.fileno())
            loader.close()
        self._generations.close()

    def _loader(self, backend: str) -> Loader:
        if backend not in self._loaders:
            with self.node.network(self._home):
                self._loaders[backend] = loader = open_loader(backend)
            if isinstance(loader, WatchingLoader):
                asyncio.get_running_loop().add_reader(loader.fileno(), loader.process_events)
        return self._loaders[backend]

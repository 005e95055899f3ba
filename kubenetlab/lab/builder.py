"""The builder: makes the changes of a plan, by all hands. Links and namespaces here, rules and programs by the other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from kubenetlab.datapath.contexts import Context, Contexts
from kubenetlab.hoststate.diff import Changes, NetnsChanges
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.lab.lives import Lives
from kubenetlab.lab.netns_links import NetnsLinks
from kubenetlab.lab.refusals import program_refused, rules_refused
from kubenetlab.lab.rules import RulesHand
from kubenetlab.lab.runs import RunsHand
from kubenetlab.lab.sight import Sight
from kubenetlab.programs import is_one_shot

Refused = dict[str, list[str]]
"""Namespace → what was refused there."""


class Builder:
    """The hands of the agent. Beside what they made, it knows which nodes' rules are not what they should be: `unruled`."""

    def __init__(self, kernel: LinuxKernel, sight: Sight, rules: RulesHand, runs: RunsHand, links: NetnsLinks, lives: Lives) -> None:
        self.unruled: set[str] = set()
        self._kernel = kernel
        self._pids = kernel.sandboxes.pids
        self._sight = sight
        self._rules = rules
        self._runs = runs
        self.links = links
        self._lives = lives

    async def apply(self, changes: Changes, desired: HostState, contexts: Contexts, tell: Callable[..., None]) -> Refused:
        """Makes the changes that lead to `desired`. `tell` is told how it goes on."""
        tell(phase="namespaces", total=len(changes.namespaces))
        for entry in changes.namespaces:
            if entry.is_removed:
                self._lives.unwatch(entry.netns)
        report = self._kernel.apply(changes, lambda netns: tell(done=netns))
        refused: Refused = {}
        for failure in report.failures:
            refused.setdefault(failure.netns, []).append(str(failure))
        for entry in changes.namespaces:
            self._take_note(entry)
        self._sight.made(self._pids[entry.netns] for entry in changes.namespaces if entry.is_new and entry.netns in self._pids)
        tell(phase="rules and programs")
        alive = [entry for entry in changes.namespaces if entry.netns in self._pids]
        results = await asyncio.gather(
            *(self._load_rules(entry, desired) for entry in alive),
            *(self._run_programs(entry, desired, contexts, once=False) for entry in alive),
        )
        results += await asyncio.gather(*(self._run_programs(entry, desired, contexts, once=True) for entry in alive))
        for said in results:
            for netns, text in said:
                refused.setdefault(netns, []).append(text)
        self._rules.save_marks()
        return refused

    def forget(self, netns: str) -> None:
        """A namespace is gone, and everything in it."""
        self.unruled.discard(netns)
        self.links.remove(netns)
        self._runs.forget(netns)
        self._rules.forget(netns)
        self._sight.forget(netns)

    def _take_note(self, entry: NetnsChanges) -> None:
        """Namespaces that came or went."""
        pid = self._pids.get(entry.netns, 0)
        if entry.is_removed:
            self.forget(entry.netns)
        elif entry.is_new and pid:
            self._lives.watch(entry.netns, pid)
            self.links.add(entry.netns, pid)

    async def _load_rules(self, entry: NetnsChanges, desired: HostState) -> list[tuple[str, str]]:
        """Returns (namespace, what was refused)."""
        netns, pid = entry.netns, self._pids[entry.netns]
        if not any(operation.object.hand == "nftables" for operation in entry.operations):
            return []
        old, new = (of_hand(contents.values(), "nftables") for contents in (self._sight.known.get(netns, {}), desired[netns]))
        said = await self._rules.apply(netns, pid, old, new)
        if said is None:
            self.unruled.discard(netns)
            return []
        self.unruled.add(netns)
        return [(netns, rules_refused(netns, said, desired))]

    async def _run_programs(self, entry: NetnsChanges, desired: HostState, contexts: Contexts, *, once: bool) -> list[tuple[str, str]]:
        """Those that serve, or those that ask something once and end: they come when all else of the round is in place."""
        netns, pid, context = entry.netns, self._pids.get(entry.netns, 0), contexts.get(entry.netns)
        refused: list[tuple[str, str]] = []
        for operation in entry.operations if pid and context is not None else ():
            if isinstance(operation.object, ProgramRun) and context is not None and is_one_shot(operation.object.program) == once:
                if operation.verb == "remove":
                    await self._runs.stop(operation.object, context.node)
                elif (said := await self._start(operation.object, pid, context, contexts)) is not None:
                    refused.append((netns, program_refused(operation.object, said, desired)))
        return refused

    async def _start(self, run: ProgramRun, pid: int, context: Context, contexts: Contexts) -> str | None:
        return await self._runs.start(run, pid, context, lambda: contexts.environment(run.netns, run.container))


def of_hand(objects: Iterable[Any], hand: str) -> list[Any]:
    """Those of the objects that one hand makes."""
    return [obj for obj in objects if obj.hand == hand]

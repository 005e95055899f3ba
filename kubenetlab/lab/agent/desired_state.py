"""Desired state: the kernel objects, rules and programs that follow from the store."""

from __future__ import annotations

from collections.abc import Mapping

from kubenetlab.api.store import Cluster
from kubenetlab.datapath import plan, plan_inputs, plan_probes
from kubenetlab.datapath.attachments import AttachmentPlan, plan_attachments
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.hoststate.state import HostState
from kubenetlab.lab import machine


class DesiredState:
    """The plan for the latest store, in `state`. Unchanged parts are not planned again."""

    def __init__(self) -> None:
        self.state = HostState()
        self.cache = PlanCache()
        """Results of layers for this store and the former ones, shared with other readers."""
        self._cluster: Cluster | None = None
        self._inputs: tuple[object, ...] | None = None
        """Inputs of the plan in `state`, compared by identity."""
        self._probes: Mapping[str, tuple[ProbeSpec, ...]] | None = {}
        """The probes for `state`; None until they are planned."""
        self._attachments: AttachmentPlan | None = AttachmentPlan()
        """The attachments for `state`; None until they are planned."""

    def update(self, cluster: Cluster) -> HostState:
        """Plan a store if an input of the plan has changed; return the desired state."""
        inputs, self._cluster = plan_inputs(cluster, self.cache), cluster
        if self._inputs is None or any(
            new is not old for new, old in zip(inputs, self._inputs, strict=True)
        ):
            self.state = plan(cluster, machine.decisions(cluster), self.cache)
            self._probes, self._attachments, self._inputs = None, None, inputs
        return self.state

    def state_for(self, cluster: Cluster) -> HostState:
        """Return the desired state for an answer to a client.

        A new agent answers before its first pass: then plan the store it has taken over. Nothing of
        that is kept but cached layers, since the first pass needs to know that nothing is planned.
        """
        if self._inputs is not None:
            return self.state
        return plan(cluster, machine.decisions(cluster), self.cache)

    def probes(self) -> Mapping[str, tuple[ProbeSpec, ...]]:
        """Return the probes of each sandbox.

        They are planned at the first call, so that namespaces can be created before that.
        """
        if self._probes is None:
            assert self._cluster is not None
            self._probes = plan_probes(self._cluster, machine.decisions(self._cluster), self.cache)
        return self._probes

    def attachments(self) -> AttachmentPlan:
        """Return the pods that CNI plugins attach; they are planned at the first call."""
        if self._attachments is None:
            assert self._cluster is not None
            decisions = machine.decisions(self._cluster)
            self._attachments = plan_attachments(self._cluster, decisions, self.cache)
        return self._attachments

    def forget(self, removed: set[str]) -> None:
        """Drop cached plans of namespaces that no longer exist."""
        names = removed | {netns.removeprefix("node/") for netns in removed}
        self.cache.forget(lambda key: isinstance(key, tuple) and key[1] in names)

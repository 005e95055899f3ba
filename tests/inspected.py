"""Documents of `inspect` for the stores of tests, as if everything in them ran."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from kubenetlab.api.json_types import JsonObject
from kubenetlab.api.policies.network_policy import NetworkPolicy
from kubenetlab.api.render import render
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import plan
from kubenetlab.lab.apiserver.diagnostics import diagnostics
from kubenetlab.lab.apiserver.inspection import inspection
from kubenetlab.lab.apiserver.policy_objects import policy_objects
from kubenetlab.observe.inspection import Inspection
from kubenetlab.observe.policies.objects import read_policy_objects
from kubenetlab.observe.policies.verdicts import PolicyVerdicts
from tests.clusters import ONLINK


def inspected(cluster: Cluster) -> Inspection:
    """Return the document of `inspect` of a lab with these objects."""
    desired = plan(cluster, ONLINK)
    agent: Any = SimpleNamespace(
        cluster=cluster,
        lab="test",
        directory=Path("/run/kubenetlab/test"),
        decisions=ONLINK,
        sandboxes=SimpleNamespace(pids=dict.fromkeys(desired.namespaces, 7)),
        builder=SimpleNamespace(links=SimpleNamespace(path=str, init_pid=1, outer_pid=int)),
        desired_state=SimpleNamespace(state_for=lambda cluster: desired),
        runtime=SimpleNamespace(pid=lambda netns, container: None),
    )
    return inspection(agent)


def verdicts(cluster: Cluster) -> PolicyVerdicts:
    """Return the verdicts of the policies in a store, as commands get them from the API."""
    reply = msgspec.json.decode(msgspec.json.encode(policy_objects(cluster)))
    return PolicyVerdicts(read_policy_objects(reply), inspected(cluster))


class PolicyClient:
    """Client of a lab with these objects, whose nodes have one listing of nftables."""

    def __init__(self, cluster: Cluster, listing: str = "", differing: Sequence[str] = ()) -> None:
        """Prepare the replies.

        differing: network namespaces whose rules are not the desired ones.
        """
        self._cluster = cluster
        self._differing = differing
        self._listing = listing

    def inspect(self) -> Inspection:
        return inspected(self._cluster)

    def diagnostics(self) -> list[JsonObject]:
        return diagnostics(self._cluster)

    def policy(self, name: str) -> JsonObject:
        """Return the document of a NetworkPolicy of the namespace `default`."""
        policy = self._cluster.get(NetworkPolicy, "default", name)
        assert policy is not None
        return render(self._cluster, policy)

    def get(self, path: str, **query: str) -> Any:
        if path.endswith("/policies"):
            always = query.get("objects") == "always"
            reply = policy_objects(self._cluster, always=always)
            return msgspec.json.decode(msgspec.json.encode(reply))
        if path.endswith("/rule-differences"):
            own = (netns for netns in self._differing if netns == query["netns"])
            return {"changes": [{"netns": netns} for netns in own]}
        assert path.endswith("/detail")
        assert query["netns"].startswith("node/")
        return {"listings": {"nftables": self._listing}}

"""Health and log of the agents of CNI plugins."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.api.core import Node
from kubenetlab.datapath import plan_probes
from kubenetlab.datapath.agents.health import agent_plan
from kubenetlab.datapath.cluster_modes import decided_cni
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.view import node_views
from kubenetlab.lab.nodeagent.agent_check import sessions
from kubenetlab.programs import DEFAULT, cni_agent, program_of_image
from kubenetlab.programs.support.http import ProgramContext
from tests.clusters import running, store
from tests.unit.datapath.test_cni_agents import PODS, WITH_AGENTS, decisions, manifest


@pytest.mark.parametrize("cni", WITH_AGENTS)
def test_the_probe_of_an_agent_checks_what_the_mode_writes(cni: str) -> None:
    cluster = running(store(manifest(cni) + PODS))
    specs = [
        spec
        for group in plan_probes(cluster, decisions(cluster), PlanCache()).values()
        for spec in group
        if spec.method == "agent"
    ]
    assert len(specs) == len(cluster.all(Node))
    for spec in specs:
        assert spec.health is not None
        assert bool(spec.health.control) == (cni in ("calico", "kube-router"))
        assert bool(spec.health.vteps) == (cni in ("flannel", "weave"))
        assert bool(spec.health.routes) == (cni in ("flannel", "cilium"))


@pytest.mark.parametrize(
    ("cni", "line"),
    [
        ("flannel", "VTEP 172.18.0.4 on flannel.1 (node worker2)"),
        ("calico", "BGP peer 172.18.0.4 (node worker2)"),
        ("{type: flannel, backend: wireguard}", "WireGuard peer 172.18.0.4 on flannel-wg"),
    ],
)
def test_the_log_names_the_other_nodes(cni: str, line: str) -> None:
    cluster = running(store(manifest(cni)))
    cni_mode = decided_cni(cluster.config, decisions(cluster))
    (node,) = [
        view
        for view in node_views(cluster, decisions(cluster), PlanCache())
        if view.name == "worker"
    ]
    agent = agent_plan(node, cni_mode, PlanCache())
    assert agent is not None
    assert [title for title in agent.written.values() if title.startswith(line)]


def test_routes_of_other_tables_are_not_looked_for_in_the_main_table() -> None:
    """Calico's encrypted blocks are in tables of their own; the keys of the link are checked."""
    cluster = running(store(manifest("{type: calico, wireguard: true}") + PODS))
    groups = plan_probes(cluster, decisions(cluster), PlanCache()).values()
    checked = [spec.health for group in groups for spec in group if spec.health is not None]
    assert len(checked) == len(cluster.all(Node))
    assert all(health.keys for health in checked)
    assert not any(health.routes for health in checked)


class Agent:
    """A program that gets options from the test."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._memory = cni_agent.initial_state()

    def configure(self, state: dict[str, str], health: str | None) -> list[str]:
        """Change the options; return the lines that the program logs."""
        before = len(self.lines)
        none: Any = None
        options = {"state": state, "health": health, "healthy": "Ready: all is there"}
        cni_agent.on_options(
            ProgramContext(
                "kube-system",
                "calico-node-x",
                "worker",
                "172.18.0.3",
                "worker",
                "calico-node",
                options,
                none,
                self.lines.append,
                none,
                none,
                none,
                self._memory,
            )
        )
        return self.lines[before:]


def test_the_program_logs_changes_once() -> None:
    agent = Agent()
    assert agent.configure({"bgp x": "BGP peer x"}, None) == [
        "Starting on node worker",
        "Added BGP peer x",
    ]
    assert agent.configure({"bgp x": "BGP peer x"}, "no session") == ["no session"]
    assert agent.configure({"bgp x": "BGP peer x"}, "no session") == []
    assert agent.configure({"bgp y": "BGP peer y"}, "") == [
        "Removed BGP peer x",
        "Added BGP peer y",
        "Ready: all is there",
    ]
    assert agent.configure({"bgp y": "BGP peer z"}, "") == ["Changed BGP peer z"]


def test_images_of_agents_have_their_program() -> None:
    """An image `node` of another owner is Node.js, say."""
    assert program_of_image("docker.io/calico/node:v3.30.0") == "cni_agent"
    assert program_of_image("ghcr.io/flannel-io/flannel:v0.27.0") == "cni_agent"
    assert program_of_image("node:22") == program_of_image("library/node") == DEFAULT


def test_sessions_are_read_from_birds_reply() -> None:
    """The state of a protocol precedes its neighbour; other protocols have neither."""
    reply = """\
2002-Name       Proto      Table      State  Since         Info
1002-kernel4    Kernel     master4    up     10:00:00.000
1006-  Channel ipv4
1002-Mesh_172_18_0_2 BGP        ---        up     10:00:01.000  Established
1006-  BGP state:          Established
     Neighbor address: 172.18.0.2
1002-Mesh_172_18_0_4 BGP        ---        start  10:00:00.000  Active        Socket: Timeout
1006-  BGP state:          Active
     Neighbor address: 172.18.0.4
0000 """
    assert sessions(reply.splitlines()) == [
        ("172.18.0.2", "Established"),
        ("172.18.0.4", "Active"),
    ]

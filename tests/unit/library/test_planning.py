"""Plans from Python: what `kubenetlab plan` would print, as values."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubenetlab import LabPlan, LabWarning, ManifestError, plan
from kubenetlab.api.core import Node
from kubenetlab.api.pods import Pod
from kubenetlab.datapath import plan as plan_objects
from kubenetlab.hoststate.rules.ipvs import VirtualServer
from kubenetlab.hoststate.rules.rulesets import members
from kubenetlab.hoststate.state import HostState
from kubenetlab.lab import machine
from tests.clusters import ONLINK, deployment, pod, running, service, store

WEB = pod("client") + deployment("web", 2) + service("web")


def namespaces(state: HostState) -> dict[str, list[str]]:
    return {
        netns: sorted(map(str, objects.values())) for netns, objects in state.namespaces.items()
    }


def test_a_plan_is_that_of_a_lab_in_which_every_pod_is_ready() -> None:
    """It has the objects of controllers and kernel objects with their origin."""
    result = plan(text=WEB)
    pods = result.cluster.all(Pod)
    assert [pod.status.phase for pod in pods] == ["Running"] * len(pods)
    expected = plan_objects(running(store(WEB), now=0.0), ONLINK)
    assert namespaces(result.desired) == namespaces(expected)
    (client,) = (pod for pod in pods if pod.name == "client")
    netns = next(
        name for name in result.desired.namespaces if name.startswith("pod/default/client")
    )
    address = next(
        obj for obj in result.desired[netns].values() if client.status.pod_ip in str(obj)
    )
    origin = result.desired.origin(address)
    assert origin is not None
    assert "client" in str(origin)


def test_equal_manifests_have_equal_plans_on_every_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the clock nor the kernel changes a plan."""
    first = plan(text=WEB)
    monkeypatch.setattr(machine, "has_br_netfilter", lambda: False)
    second = plan(text=WEB)
    assert namespaces(first.desired) == namespaces(second.desired)
    assert first.script() == second.script()
    assert plan(text=WEB, now=1e9).cluster.all(Pod) != first.cluster.all(Pod)


def test_files_and_text_and_options(tmp_path: Path) -> None:
    """`plan` takes them like a lab; options replace the values of the Cluster document."""
    file = tmp_path / "web.yaml"
    file.write_text(deployment("web", 1) + service("web"))
    result = plan([file], text=pod("client"), nodes=5, kube_proxy_mode="ipvs", name="five")
    assert len(result.cluster.all(Node)) == 5
    assert {pod.name.partition("-")[0] for pod in result.cluster.all(Pod)} >= {"web", "client"}
    worker = members(result.desired["node/worker"].values())
    assert any(isinstance(obj, VirtualServer) for obj in worker)
    assert (result.name, result.cluster.config.name) == ("five", "five")
    assert "LAB=${LAB:-five}" in result.script()


def test_without_manifests_it_is_the_quickstart() -> None:
    assert {pod.namespace for pod in plan().cluster.all(Pod)} == {"default", "kube-system", "shop"}


def test_problems_are_errors_warnings_and_diagnostics() -> None:
    """Wrong manifests raise, unknown fields warn, and misconfigurations are diagnostics."""
    with pytest.raises(ManifestError, match="<text>:1  Pod: apiVersion required"):
        plan(text="kind: Pod\n")
    with pytest.warns(LabWarning, match="<text>:4  Pod default/a: spec.colour: unknown field"):
        result = plan(text=pod("a", spec=", colour: red") + service("nowhere"))
    assert isinstance(result, LabPlan)
    assert [entry.code for entry in result.diagnostics] == ["selector-matches-no-pod"]
    with pytest.raises(ManifestError, match="unknown field"):
        plan(text=pod("a", spec=", colour: red"), strict=True)

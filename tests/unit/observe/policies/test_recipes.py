"""The evaluator and published policy recipes, whose truth tables were written elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kubenetlab.api.core import Service
from kubenetlab.api.json_types import JsonObject
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.observe.policies.evaluator import Evaluator, Party, Traffic
from tests.clusters import running, store

RECIPES = Path(__file__).parents[5] / "shared" / "cases" / "netpol-recipes"
CASES = sorted(RECIPES.glob("*/expect.yaml"))


def party(pod: Pod) -> Party:
    return Party(pod.addresses[0], pod.full_name, pod.spec.node_name)


def destinations(cluster: Cluster, probe: JsonObject) -> list[tuple[Party, int]]:
    """Return the pods and ports that a probe can reach, behind a Service all of its endpoints."""
    target, port = probe["to"], probe["port"]
    namespace, name = target.removeprefix("svc:").split("/")
    if not target.startswith("svc:"):
        pod = cluster.get(Pod, namespace, name)
        assert pod is not None
        return [(party(pod), port)]
    service = cluster.get(Service, namespace, name)
    assert service is not None
    (port_name,) = (
        entry.name
        for entry in service.spec.ports
        if (entry.port, entry.protocol) == (port, probe["protocol"])
    )
    pods = {pod.full_name: pod for pod in cluster.all(Pod)}
    return [
        (party(pods[f"{namespace}/{endpoint.target_ref.name}"]), entry.port)
        for slice_ in cluster.slices_by_service[namespace, name]
        for entry in slice_.ports
        if entry.name == port_name and entry.port is not None
        for endpoint in slice_.endpoints
        if endpoint.target_ref is not None
    ]


@pytest.mark.skipif(not CASES, reason="needs a folder of policy recipes (../shared/cases)")
@pytest.mark.parametrize("file", CASES, ids=lambda file: file.parent.name)
def test_recipes_have_the_expected_verdicts(file: Path) -> None:
    case = yaml.safe_load(file.read_text())
    texts = [(file.parent / name).read_text() for name in case["manifests"]]
    cluster = running(store("\n---\n".join(texts)))
    evaluator = Evaluator(cluster)
    for probe in case["probes"]:
        source = cluster.get(Pod, *probe["from"].split("/"))
        assert source is not None
        reached = destinations(cluster, probe)
        assert reached, probe
        for destination, port in reached:
            verdict = evaluator.verdict(
                party(source), destination, Traffic(probe["protocol"], port)
            )
            assert verdict.is_allowed == probe["allowed"], (probe, verdict)

"""From any lab to any other: a plan is carried out, and then nothing is left to do; in every mode, over all that tests have."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenetlab.api.lab import Decisions, PodRuntimeStatus
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.termination import terminated
from kubenetlab.datapath import modes, plan
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.errors import ManifestError
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.state import Contents, HostState
from kubenetlab.kernel.fake import FakeKernel
from tests.clusters import NOW, applied, deployment, pod, running, settled, store

CASES = sorted((Path(__file__).parents[1] / "golden" / "cases").iterdir())
LABS = [case / "input.yaml" for case in CASES if not (case / "error.txt").exists()]
STEPS = 4


class Machine:
    """A kernel, brought from one plan to the next."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.memo = PlanCache()

    def becomes(self, cluster: Cluster, decisions: Decisions) -> None:
        """What is remembered of earlier plans changes nothing, what differs is done, and then nothing differs."""
        desired = plan(cluster, decisions, self.memo)
        assert desired.namespaces == plan(cluster, decisions).namespaces
        self.kernel.apply(diff(self.seen(desired), desired)).raise_failures()
        seen = self.seen(desired)
        assert str(diff(seen, desired)) == ""
        assert seen.namespaces == desired.namespaces
        assert plan(cluster, decisions, self.memo).namespaces == desired.namespaces

    def seen(self, desired: HostState) -> HostState:
        """All that there is, and not only what is wanted."""
        everything: dict[str, Contents] = {
            netns: {} for netns in (*desired.namespaces, *self.kernel._namespaces)
        }
        return HostState(self.kernel.observe(everything))


@pytest.mark.parametrize("layout", ["onlink", "routed"])
@pytest.mark.parametrize("file", LABS, ids=lambda file: file.parent.name)
def test_golden_labs_are_made(file: Path, layout: Any) -> None:
    """Before their pods run, while they do, and when some of them have gone."""
    machine, decisions = Machine(), Decisions(pod_layout=layout, neighbors="permanent")
    machine.becomes(cluster := store(file.read_text()), decisions)
    machine.becomes(cluster := running(cluster), decisions)
    machine.becomes(without_some(cluster, list(cluster.all(Pod))[::2]), decisions)


def without_some(cluster: Cluster, pods: list[Pod]) -> Cluster:
    """The store when some pods have gone."""
    going = settled(
        cluster.with_changes(change for gone in pods for change in terminated(gone, NOW))
    )
    uids = {gone.uid for gone in pods}
    detached = [
        PodRuntimeStatus(seen.metadata, seen.pod_uid, is_detached=True)
        for seen in going.all(PodRuntimeStatus)
        if seen.pod_uid in uids
    ]
    return settled(going.with_changes(detached))


class Chance:
    """Small labs by chance: each manifest is of the same lab, with other nodes, workloads and Services in it."""

    def __init__(self, random: Random) -> None:
        self.pick: Any = random.choice
        self.cni = self.pick(modes.known("cni"))
        self.proxy = self.pick(modes.known("proxy"))
        self.decisions = Decisions(
            pod_layout=self.pick(["onlink", "routed"]),
            neighbors=self.pick(["dynamic", "permanent"]),
        )

    def manifest(self) -> str:
        parts = [self.cluster()]
        parts += [self.deployment(name) for name in ("web", "db") if self.pick([True, True, False])]
        parts += [
            self.service(name) for name in ("web", "db", "nobody") if self.pick([True, True, False])
        ]
        parts += (
            [pod("alone", self.pick(["", ", hostNetwork: true"]), meta=", labels: {app: web}")]
            if self.pick([True, False])
            else []
        )
        return "---\n".join(parts)

    def cluster(self) -> str:
        workers = "".join(
            f", {{role: worker, name: w{number}}}" for number in range(self.pick([0, 1, 2, 3]))
        )
        hosts = ", ".join(
            f"{{name: h{number}, address: 198.51.100.{10 + number}}}"
            for number in range(self.pick([0, 1, 2]))
        )
        return f"""\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{{role: control-plane}}{workers}]
networking: {{cni: {self.cni}, kubeProxyMode: {self.proxy}}}
external: [{hosts}]
"""

    def deployment(self, name: str) -> str:
        return deployment(
            name,
            self.pick([0, 1, 2, 4]),
            **self.pick([{}, {}, {"hostNetwork": "true"}, {"hostname": "me", "subdomain": name}]),
        )

    def service(self, name: str) -> str:
        ports = self.pick(
            [
                "{port: 80, targetPort: http}",
                "{port: 80}",
                "{name: a, port: 80, targetPort: http}, {name: b, port: 53, protocol: UDP, targetPort: 8081}",
                "{name: a, port: 80, targetPort: http}, {name: b, port: 81, targetPort: 8080}",
            ]
        )
        more = self.pick(
            [
                "",
                "",
                "sessionAffinity: ClientIP",
                "internalTrafficPolicy: Local",
                "publishNotReadyAddresses: true",
                "externalIPs: [192.0.2.7]",
                "type: NodePort",
            ]
        )
        return f"""\
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {self.pick([name, name, "web"])}}}
  ports: [{ports}]
  {more}
"""


@settings(max_examples=30)
@given(random=st.randoms(use_true_random=True))
def test_any_lab_becomes_any_other(random: Random) -> None:
    """Nodes, pods and Services come and go, pods are ready or not: step by step as if made anew."""
    chance, machine = Chance(random), Machine()
    cluster = store(chance.manifest())
    for _ in range(STEPS):
        machine.becomes(cluster, chance.decisions)
        machine.becomes(cluster := running(cluster, ready=random.random() < 0.7), chance.decisions)
        pods = list(cluster.all(Pod))
        cluster = without_some(cluster, random.sample(pods, random.randint(0, min(3, len(pods)))))
        machine.becomes(cluster, chance.decisions)
        try:
            cluster = applied(cluster, chance.manifest())
        except ManifestError:
            continue  # a change that Kubernetes forbids too

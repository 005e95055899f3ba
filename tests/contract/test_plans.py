"""Plans that turn any lab into any other, in every mode; applied, they leave no difference."""

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
from kubenetlab.controllers.support.termination import deletion_changes
from kubenetlab.datapath import modes, plan
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.errors import ManifestError
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.state import Contents, HostState
from kubenetlab.kernel.fake import FakeKernel
from tests.clusters import NOW, applied, decided, deployment, pod, running, settled, store
from tests.examples import examples

CASES = sorted((Path(__file__).parents[1] / "golden" / "cases").iterdir())
LABS = [case / "input.yaml" for case in CASES if not (case / "error.txt").exists()]
STEPS = 4


class Machine:
    """Fake kernel that is changed from one plan to the next."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.plan_cache = PlanCache()

    def apply(self, cluster: Cluster, decisions: Decisions) -> None:
        """Apply the plan of a cluster and check the result.

        The cache of earlier plans must not change the plan, and no difference may be left.
        """
        desired = plan(cluster, decisions, self.plan_cache)
        assert desired.namespaces == plan(cluster, decisions).namespaces
        self.kernel.apply(diff(self.observe(desired), desired)).raise_failures()
        observed = self.observe(desired)
        assert str(diff(observed, desired)) == ""
        assert observed.namespaces == desired.namespaces
        assert plan(cluster, decisions, self.plan_cache).namespaces == desired.namespaces

    def observe(self, desired: HostState) -> HostState:
        """Return the state of all existing namespaces, not only of the desired ones."""
        everything: dict[str, Contents] = {
            netns: {} for netns in (*desired.namespaces, *self.kernel._namespaces)
        }
        return HostState(self.kernel.observe(everything))


@pytest.mark.parametrize("layout", ["onlink", "routed"])
@pytest.mark.parametrize("file", LABS, ids=lambda file: file.parent.name)
def test_golden_labs_can_be_built(file: Path, layout: Any) -> None:
    """Plans hold before the pods run, while they run, and after some of them have ended."""
    machine, decisions = Machine(), decided(layout, "permanent")
    machine.apply(cluster := store(file.read_text()), decisions)
    machine.apply(cluster := running(cluster), decisions)
    machine.apply(without_some(cluster, list(cluster.all(Pod))[::2]), decisions)


def without_some(cluster: Cluster, pods: list[Pod]) -> Cluster:
    """Return the store after some pods have ended and their sandboxes are detached."""
    terminating = settled(
        cluster.with_changes(change for pod_ in pods for change in deletion_changes(pod_, NOW))
    )
    uids = {pod_.uid for pod_ in pods}
    detached = [
        PodRuntimeStatus(status.metadata, status.pod_uid, is_detached=True)
        for status in terminating.all(PodRuntimeStatus)
        if status.pod_uid in uids
    ]
    return settled(terminating.with_changes(detached))


class RandomLab:
    """Random manifests of one lab; each has other nodes, workloads and Services."""

    def __init__(self, random: Random) -> None:
        self.pick: Any = random.choice
        self.cni = self.pick(modes.known("cni"))
        self.proxy = self.pick(modes.known("proxy"))
        self.decisions = decided(
            self.pick(["onlink", "routed"]),
            self.pick(["dynamic", "permanent"]),
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
                "{name: a, port: 80, targetPort: http}, "
                "{name: b, port: 53, protocol: UDP, targetPort: 8081}",
                "{name: a, port: 80, targetPort: http}, {name: b, port: 81, targetPort: 8080}",
            ]
        )
        option = self.pick(
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
  {option}
"""


@settings(max_examples=examples(30))
@given(random=st.randoms(use_true_random=True))
def test_any_lab_becomes_any_other(random: Random) -> None:
    """Nodes, pods and Services come and go, and pods are ready or not, in any sequence."""
    random_lab, machine = RandomLab(random), Machine()
    cluster = store(random_lab.manifest())
    for _ in range(STEPS):
        machine.apply(cluster, random_lab.decisions)
        machine.apply(
            cluster := running(cluster, ready=random.random() < 0.7), random_lab.decisions
        )
        pods = list(cluster.all(Pod))
        cluster = without_some(cluster, random.sample(pods, random.randint(0, min(3, len(pods)))))
        machine.apply(cluster, random_lab.decisions)
        try:
            cluster = applied(cluster, random_lab.manifest())
        except ManifestError:
            continue  # Kubernetes rejects this change too

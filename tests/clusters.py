"""Stores for tests: manifests in, a settled store out, with simulated reports of the kubelets."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import dedent
from typing import Any, Literal

from msgspec import structs

from kubenetlab import controllers
from kubenetlab.api.core import Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.lab import Attachment, ContainerReport, Decisions, NodeReport, PodRuntimeStatus
from kubenetlab.api.manifests.load import LoadedManifests, load_documents
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.api.text.documents import read_documents
from kubenetlab.controllers.admission.admission import admit
from kubenetlab.datapath import plan
from kubenetlab.datapath.checks.objects import check_object
from kubenetlab.errors import ManifestError, Problem
from kubenetlab.hoststate.rules.rulesets import RuleObject
from kubenetlab.lab import simulation
from kubenetlab.lab.bootstrap import (
    admission_requests,
    bootstrap_store,
    raise_findings,
    with_networking,
)

NOW = 1_700_000_000.0
"""The time of all tests that need one: 2023-11-14T22:13:20Z."""


def decided(layout: str, neighbors: Literal["dynamic", "permanent"]) -> Decisions:
    """Return the decisions for the CNI mode bridge with these options."""
    options = {"layout": layout, "neighbors": neighbors}
    return Decisions(cni_mode="bridge", cni_options=options, neighbors=neighbors)


ONLINK = decided("onlink", "dynamic")

NO_CNI = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: none}\n---\n"
IPV6 = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {ipFamily: ipv6}\n---\n"
DUAL = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {ipFamily: dual}\n---\n"
FAMILIES = {"ipv4": "", "ipv6": IPV6, "dual": DUAL}
"""Documents to put before a manifest for a cluster of each address family."""
ONE_NODE = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnodes: [{role: control-plane}]\n---\n"
)


def loaded(text: str, *, strict: bool = False, file: str = "test.yaml") -> LoadedManifests:
    """Return the objects of a manifest. Raises ManifestError."""
    documents, problems = read_documents(file, dedent(text).encode())
    return load_documents(documents, problems, strict=strict, check=check_object)


def problems_of(text: str, *, strict: bool = False) -> list[Problem]:
    """Return all errors and warnings of a manifest on its own."""
    try:
        return list(loaded(text, strict=strict).warnings)
    except ManifestError as error:
        return list(error.problems)


def store(text: str = "", *, now: float = NOW) -> Cluster:
    """Return the settled store of a new lab. Raises ManifestError."""
    manifests = loaded(text)
    config = next((entry for entry in manifests.entries if entry.value["kind"] == "Cluster"), None)
    return bootstrap_store(
        config, [entry for entry in manifests.entries if entry is not config], now
    ).cluster


def applied(cluster: Cluster, text: str, *, now: float = NOW) -> Cluster:
    """Return the store after another `apply`. Raises ManifestError."""
    entries = loaded(text).entries
    admission = admit(cluster, admission_requests(entries), now)
    raise_findings(admission, entries)
    return settled(with_networking(admission.cluster, now), now)


def settled(cluster: Cluster, now: float = NOW) -> Cluster:
    return controllers.settle(cluster, now)


def running(
    cluster: Cluster, *, now: float = NOW, ready: bool = True, only: Iterable[str] | None = None
) -> Cluster:
    """Return the store once all sandboxes and containers run and all probes have succeeded.

    ready: False for probes that fail.

    only: names of the pods whose reports arrive; None for all.
    """
    reports = simulation.reports(cluster, now, ready=ready)
    return settled(
        cluster.with_changes(
            report
            for report in reports
            if isinstance(report, NodeReport) or only is None or report.name in only
        ),
        now,
    )


def rules_of(backend: str, text: str, then: str = "") -> list[Any]:
    """Return the rules of the node `worker` in one rule backend, in a lab where everything runs.

    then: manifest that is applied afterwards.
    """
    cluster = running(store(text))
    if then:
        cluster = running(applied(cluster, then))
    return [
        obj
        for obj in plan(cluster, ONLINK)["node/worker"].values()
        if isinstance(obj, RuleObject) and obj.backend == backend
    ]


def observed(pod: Pod, *, now: float = NOW, ready: bool = True) -> PodRuntimeStatus:
    """Return a report that all containers of a pod run, in their present attempt."""
    return simulation.report(pod, now, ready=ready)


def report(
    cluster: Cluster,
    name: str,
    container: ContainerReport,
    *,
    now: float,
    namespace: str = "default",
) -> Cluster:
    """Return the store after a report about the first container of a pod."""
    pod = pod_named(cluster, name, namespace)
    status = cluster.get(PodRuntimeStatus, namespace, name) or observed(pod)
    first = pod.spec.long_running_containers[0].name
    return settled(
        cluster.with_changes(
            [structs.replace(status, containers={**status.containers, first: container})]
        ),
        now,
    )


def pod_named(cluster: Cluster, name: str, namespace: str = "default") -> Pod:
    pod = cluster.get(Pod, namespace, name)
    assert pod is not None, f"there is no pod {namespace}/{name}"
    return pod


def without_pod(cluster: Cluster, name: str) -> Cluster:
    """Return the cluster after a pod and its sandbox are gone."""
    attachment = cluster.get(Attachment, "default", name)
    assert attachment is not None
    gone = [deletion(pod_named(cluster, name)), deletion(attachment)]
    return settled(cluster.with_changes(gone))


def deployment(name: str = "web", replicas: int = 3, **spec: object) -> str:
    """Return a Deployment of agnhost pods as YAML."""
    extra = "".join(f"\n      {key}: {value}" for key, value in spec.items())
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:{extra}
      containers:
      - name: {name}
        image: agnhost
        args: [netexec]
        ports: [{{name: http, containerPort: 8080}}]
---
"""


def service(name: str = "web", port: int = 80, target: object = "http", **spec: object) -> str:
    """Return a Service for the Deployment of the same name as YAML."""
    extra = "".join(f"\n  {key}: {value}" for key, value in spec.items())
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:{extra}
  selector: {{app: {name}}}
  ports: [{{port: {port}, targetPort: {target}}}]
---
"""


def pod(name: str, spec: str = "", meta: str = "", container: str = "") -> str:
    """Return a Pod as YAML, with additions to its spec, its metadata or its container."""
    main = f"{{name: main, image: agnhost, args: [netexec]{container}}}"
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{meta}}}\n"
        f"spec: {{containers: [{main}]{spec}}}\n---\n"
    )


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """Return a manifest with replacements; each replaced text must occur in it."""
    for old, new in pairs:
        assert old in text, f"{old!r} is not in the manifest"
        text = text.replace(old, new)
    return text


def web_pods(cluster: Cluster) -> list[Pod]:
    """Return the pods of `app: web` that do not terminate."""
    return [pod for pod in cluster.select("default", {"app": "web"}) if not pod.is_terminating]


def slices(cluster: Cluster, name: str = "web") -> list[EndpointSlice]:
    """Return the EndpointSlices of a Service."""
    owner = cluster.get(Service, "default", name)
    assert owner is not None
    return list(cluster.slices_of(owner))

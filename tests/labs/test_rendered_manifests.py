"""Manifests of a Helm chart and of a Kustomize overlay, rendered by the real programs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.labs.lab import Lab
from tests.unit.library.test_pytest_plugin import OPTIONS, pytest_run

WORKLOADS = """\
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: client, image: busybox}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: REPLACED_NAME, labels: {app: web}}
spec:
  replicas: REPLACED_REPLICAS
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}]}]
"""
CHART = {
    "Chart.yaml": "apiVersion: v2\nname: shop\nversion: 0.1.0\n",
    "values.yaml": "replicas: 1\n",
    "templates/shop.yaml": WORKLOADS.replace("REPLACED_NAME", '"{{ .Release.Name }}-web"').replace(
        "REPLACED_REPLICAS", "{{ .Values.replicas }}"
    ),
    "templates/NOTES.txt": "Thank you for installing {{ .Chart.Name }}.\n",
    "templates/tests/test-connection.yaml": (
        "apiVersion: v1\nkind: Pod\n"
        'metadata:\n  name: test\n  annotations: {"helm.sh/hook": test}\n'
        "spec: {restartPolicy: Never, containers: [{name: wget, image: busybox}]}\n"
    ),
}
OVERLAY = {
    "base/kustomization.yaml": "resources: [shop.yaml]\n",
    "base/shop.yaml": WORKLOADS.replace("REPLACED_NAME", "web").replace("REPLACED_REPLICAS", "1"),
    "overlays/test/kustomization.yaml": (
        "resources: [../../base, namespace.yaml]\n"
        "namespace: staging\n"
        "replicas: [{name: web, count: 2}]\n"
        "labels: [{pairs: {stage: test}, includeSelectors: true}]\n"
    ),
    "overlays/test/namespace.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: staging}\n",
}
TEST = """\
import pytest

from kubenetlab import Lab


@pytest.mark.kubenetlab(render={command!r})
def test_rendered(lab: Lab) -> None:
    namespace = {namespace!r}
    assert len(lab.get_all("pods", namespace=namespace)) == {pods}
    assert lab.pod(f"{{namespace}}/client").can_reach(f"svc:{{namespace}}/web")
    assert not lab.external("client").can_reach(f"deploy:{{namespace}}/{workload}", 80)
"""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def rendered(folder: Path, command: str) -> str:
    return subprocess.run(
        command.split(), cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def require(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs the program {program}")


def run_test(folder: Path, **fields: object) -> None:
    (folder / "test_rendered.py").write_text(TEST.format(**fields))
    done = pytest_run(folder, *OPTIONS)
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.parametrize(("options", "pods"), [("", 4), (" --skip-tests", 3)])
def test_a_chart_is_rendered_by_helm(lab: Lab, tmp_path: Path, options: str, pods: int) -> None:
    """By the plugin, and in a pipe. Pods of hooks are objects like all others."""
    require("helm")
    write(tmp_path / "chart", CHART)
    command = f"helm template shop ./chart --set replicas=2{options}"
    run_test(tmp_path, command=command, namespace="default", pods=pods, workload="shop-web")
    lab.up(rendered(tmp_path, command))
    lab.run("ping", "client", "svc:web")


@pytest.mark.parametrize("program", ["kustomize build", "kubectl kustomize"])
def test_an_overlay_is_built_by_kustomize(lab: Lab, tmp_path: Path, program: str) -> None:
    """By the plugin, and with -k; selectors of policies have the labels of the overlay, too."""
    require(program.split()[0])
    write(tmp_path, OVERLAY)
    command = f"{program} overlays/test"
    run_test(tmp_path, command=command, namespace="staging", pods=3, workload="web")
    lab.run("up", "-k", str(tmp_path / "overlays" / "test"))
    lab.run("ping", "staging/client", "svc:staging/web")
    described = lab.run("describe", "networkpolicy", "web", "-n", "staging").out
    assert "PodSelector: app=client,stage=test" in described

"""`check` as a test bench: advice, the lab's promise, generated tables and reports."""

from __future__ import annotations

from pathlib import Path

from tests.clusters import ONE_NODE, deployment, pod, service
from tests.labs.lab import Lab, run

WEB = ONE_NODE + pod("client") + deployment("web", 2) + service("web")
MISTAKE = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector:
    matchLabels: {app: wbe}
---
"""
ALLOWED = ("--allow-unmodelled", "NetworkPolicy")


def test_advice_about_policies_changes_no_exit_status(lab: Lab, tmp_path: Path) -> None:
    """`plan`, `up` and `check` print it with file and line, and reports of tests leave it out."""
    file = tmp_path / "web.yaml"
    file.write_text(WEB + MISTAKE)
    line = 1 + (WEB + MISTAKE).splitlines().index("  podSelector:")
    advice = (
        f"{file}:{line}  NetworkPolicy default/web: spec.podSelector: no pod and no workload in "
        "namespace default has the labels app=wbe; did you mean app=web?"
    )
    assert f"advice: {advice}" in run("plan", "-f", str(file), "--lab", lab.name, "--strict").err
    assert f"advice: {advice}" in lab.run("up", "-f", str(file), "--strict").err
    junit = tmp_path / "junit.xml"
    assert f"advice: {advice}" in lab.run("check", *ALLOWED, "--junit", str(junit)).out
    assert "policy-selects-no-pod" not in junit.read_text()
    report = lab.run("check", *ALLOWED, "-o", "json").json
    (item,) = [entry for entry in report["diagnostics"] if entry["code"] == "policy-selects-no-pod"]
    assert (item["accepted"], item["file"], item["line"]) == (True, str(file), line)
    assert "advice" not in lab.apply(pod("other")).err

"""Notes about manifests: fields without effect, and programs of this machine that run."""

from __future__ import annotations

import pytest

from kubenetlab.cli.input.manifest_warnings import ignored_fields, warn
from kubenetlab.cli.input.manifests import Manifests
from tests.clusters import deployment, loaded, pod, replaced

ENVIRONMENT = ", env: [{name: A, value: b}], envFrom: [{configMapRef: {name: c}}]"
REAL = ', annotations: {kubenetlab.dev/real-commands: "true"}'


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        pytest.param(
            pod("a", ", volumes: []", container=", resources: {limits: {}}"),
            ["resources", "volumes"],
            id="fields that no network uses",
        ),
        pytest.param(pod("a", container=ENVIRONMENT), [], id="the environment, which exec shows"),
        pytest.param(
            replaced(pod("a", container=ENVIRONMENT), ("agnhost", "nginx")),
            ["args"],
            id="arguments of a built-in program that ignores them",
        ),
        pytest.param(
            pod("a", container=", ports: [{containerPort: 80, hostPort: 8080}]"),
            [],
            id="a port of the node that leads to the pod",
        ),
        pytest.param(
            pod(
                "a", ", hostNetwork: true", container=", ports: [{containerPort: 80, hostPort: 80}]"
            ),
            [],
            id="a port of the node's network",
        ),
        pytest.param(deployment("web", 1), [], id="nothing"),
    ],
)
def test_fields_without_effect_are_reported(manifest: str, expected: list[str]) -> None:
    """Each field is reported once; fields with an effect are not."""
    assert ignored_fields(loaded(manifest).entries) == expected


@pytest.mark.parametrize(
    ("meta", "cluster", "setting"),
    [
        (REAL, "", "the annotation kubenetlab.dev/real-commands"),
        ("", "realCommands: true\n", "realCommands (--real-commands)"),
        (REAL, "realCommands: true\n", "the annotation kubenetlab.dev/real-commands"),
    ],
)
def test_real_commands_are_reported_with_the_setting_that_enables_them(
    capsys: pytest.CaptureFixture[str], meta: str, cluster: str, setting: str
) -> None:
    """The setting is the annotation, or `realCommands` of the Cluster document."""
    text = f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n{cluster}---\n" + pod(
        "a", meta=meta, container=", command: [sleep, '9']"
    )
    manifests = loaded(text)
    warn(Manifests(None, manifests.entries, manifests))
    assert (
        f"{setting} is set: Pod default/a (sleep) runs programs of this machine\n"
        in capsys.readouterr().err
    )


def test_lifecycle_hooks_of_built_in_programs_are_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Their commands do not run; hooks of containers with a real command do."""
    hook = ", command: [sleep, '9'], lifecycle: {preStop: {exec: {command: [sleep, '5']}}}"
    manifests = loaded(pod("a", container=hook) + pod("b", meta=REAL, container=hook))
    warn(Manifests(None, manifests.entries, manifests))
    assert "they only wait for `sleep`: Pod default/a (container main)\n" in capsys.readouterr().err

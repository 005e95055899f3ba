"""What a command says of manifests that it takes: which fields mean nothing here, and which programs it runs."""

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
            id="what no network knows",
        ),
        pytest.param(pod("a", container=ENVIRONMENT), [], id="the environment, which exec shows"),
        pytest.param(
            replaced(pod("a", container=ENVIRONMENT), ("agnhost", "nginx")),
            ["args"],
            id="arguments of a stand-in that does not look at them",
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
def test_fields_without_effect_are_named(manifest: str, expected: list[str]) -> None:
    """Each once, and none that has one."""
    assert ignored_fields(loaded(manifest).entries) == expected


@pytest.mark.parametrize(
    ("meta", "cluster", "why"),
    [
        (REAL, "", "the annotation kubenetlab.dev/real-commands"),
        ("", "realCommands: true\n", "realCommands (--real-commands)"),
        (REAL, "realCommands: true\n", "the annotation kubenetlab.dev/real-commands"),
    ],
)
def test_programs_of_this_machine_are_told_with_who_asks_for_them(
    capsys: pytest.CaptureFixture[str], meta: str, cluster: str, why: str
) -> None:
    """The manifest itself, or the Cluster document and the option that writes into it."""
    text = f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n{cluster}---\n" + pod(
        "a", meta=meta, container=", command: [sleep, '9']"
    )
    found = loaded(text)
    warn(Manifests(None, found.entries, found))
    assert (
        f"programs of this machine are run in Pod default/a (sleep), as {why} asks\n"
        in capsys.readouterr().err
    )


def test_hooks_by_command_of_built_in_programs_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Their commands are not run; those beside a real command are."""
    hook = ", command: [sleep, '9'], lifecycle: {preStop: {exec: {command: [sleep, '5']}}}"
    found = loaded(pod("a", container=hook) + pod("b", meta=REAL, container=hook))
    warn(Manifests(None, found.entries, found))
    assert "only `sleep` is waited for: Pod default/a (container main)\n" in capsys.readouterr().err

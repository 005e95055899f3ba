"""Labs in real containers, as docs/ci.md shows them: the image of the Containerfile, run by Podman
and runc.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.labs import containers
from tests.labs.containers import ROOT, Engine

PAGE = (ROOT / "docs" / "ci.md").read_text()
COMMANDS = re.findall(r"^podman run (.*)$", PAGE, re.MULTILINE)
RECIPES = [
    yaml.safe_load(block)
    for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
]
LAB = ROOT / "manifests" / "05-service-and-endpoints"


@pytest.fixture(scope="module")
def podman() -> Iterator[Engine]:
    """An engine with the image, built once."""
    if reason := containers.why_not():
        pytest.skip(reason)
    with containers.engine() as engine:
        yield engine


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project with manifests and expectations in k8s/, as the recipes have it, which any user may
    write to.
    """
    shutil.copytree(LAB, tmp_path / "k8s")
    for directory in (tmp_path.parent.parent, tmp_path.parent):
        directory.chmod(0o755)
    tmp_path.chmod(0o777)
    return tmp_path


@pytest.mark.parametrize(
    "command", COMMANDS, ids=["privileged", "capabilities", "user", "read-only"]
)
def test_the_quickstart_in_a_container(podman: Engine, command: str) -> None:
    """Each way to run a container that the page shows makes the quickstart's lab, and all checks
    hold.
    """
    said = podman.run(*[word for word in shlex.split(command) if word != "--rm"]).stdout
    assert re.search(r"lab quickstart: (\d+) of \1 pods ready", said), said
    assert re.search(r"(\d+) checks in .*: \1 hold", said), said


def test_each_way_is_shown() -> None:
    """Privileged, two capabilities, an ordinary user, and a read-only root."""
    options = [set(shlex.split(command)) for command in COMMANDS]
    assert any("--privileged" in words for words in options)
    assert any(
        {"SYS_ADMIN", "NET_ADMIN"} <= words and "--read-only" not in words for words in options
    )
    assert any(
        {"--user", "seccomp=unconfined", "systempaths=unconfined"} <= words for words in options
    )
    assert any("--read-only" in words for words in options)


def test_the_recipe_for_github(podman: Engine, checkout: Path) -> None:
    """The job's container has the options that it names; its steps make the lab and check it."""
    (job,) = recipe("jobs")["jobs"].values()
    steps = [step["run"] for step in job["steps"] if "run" in step]
    checked(podman, shlex.split(job["container"]["options"]), steps, checkout)


def test_the_recipe_for_gitlab(podman: Engine, checkout: Path) -> None:
    """The job's script runs in what a privileged runner gives it."""
    job = recipe("network")["network"]
    assert job["artifacts"]["reports"]["junit"] == "network.xml"
    checked(podman, ["--privileged"], job["script"], checkout)


def test_the_recipe_for_a_pod(podman: Engine, checkout: Path) -> None:
    """A pod's container has the permissions of its security context and the volumes that it mounts,
    and no more.
    """
    spec = recipe("spec")["spec"]
    (container,) = spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    options = [*options_of(container["securityContext"])]
    for mount in container["volumeMounts"]:
        kind = "emptyDir" if "emptyDir" in volumes[mount["name"]] else "configMap"
        place = {
            "emptyDir": ["--tmpfs", mount["mountPath"]],
            "configMap": ["--volume", f"{checkout}/k8s:{mount['mountPath']}:ro"],
        }
        options += place[kind]
    said = podman.run(*options, "kubenetlab", *container["command"]).stdout
    assert re.search(r"(\d+) checks in .*: \1 hold", said), said


def recipe(key: str) -> Any:
    """Return the recipe of the page with a key."""
    return next(found for found in RECIPES if isinstance(found, dict) and key in found)


def options_of(context: Mapping[str, Any]) -> Sequence[str]:
    """Return the options of `podman run` that a security context stands for, as CRI runtimes read
    it.
    """
    known = {"capabilities", "seccompProfile", "appArmorProfile", "readOnlyRootFilesystem"}
    assert set(context) <= known, f"not translated: {set(context) - known}"
    options = [word for name in context["capabilities"]["add"] for word in ("--cap-add", name)]
    for profile, option in (("seccompProfile", "seccomp"), ("appArmorProfile", "apparmor")):
        if context.get(profile, {}).get("type") == "Unconfined":
            options += ["--security-opt", f"{option}=unconfined"]
    return (
        [*options, "--read-only", "--read-only-tmpfs=false"]
        if context.get("readOnlyRootFilesystem")
        else options
    )


def checked(podman: Engine, options: Sequence[str], script: Sequence[str], checkout: Path) -> None:
    """Run a recipe's script in a container, and find the report that it wrote."""
    said = podman.run(*options, "kubenetlab", "sh", "-e", "-c", "\n".join(script), mounted=checkout)
    assert re.search(r"(\d+) checks in .*: \1 hold", said.stdout), said
    assert 'failures="0"' in (checkout / "network.xml").read_text()


MASKED = ("--user", "1000:1000", "--security-opt", "seccomp=unconfined")
FILTERED = ("--user", "1000:1000", "--security-opt", "systempaths=unconfined")


@pytest.mark.parametrize(
    ("options", "refusal", "advice"),
    [
        (
            MASKED,
            "cannot mount the lab's own /proc: mount: Operation not permitted",
            "--security-opt systempaths=unconfined",
        ),
        (
            FILTERED,
            "cannot name the lab's host: sethostname: Operation not permitted",
            "--security-opt seccomp=unconfined",
        ),
    ],
    ids=["masked /proc", "seccomp"],
)
def test_an_ordinary_user_is_told_what_the_container_forbids(
    podman: Engine, options: Sequence[str], refusal: str, advice: str
) -> None:
    """By `up`, before it makes anything, and by doctor, which ends with 1."""
    refused = podman.run(*options, "kubenetlab", "kubenetlab", "up", status=1).stderr
    assert refusal in refused
    assert advice in refused
    examined = podman.run(*options, "kubenetlab", "kubenetlab", "doctor", status=1).stdout
    (found,) = re.findall(r"^✗ namespaces .*\n +→ .*$", examined, re.MULTILINE)
    assert advice in found

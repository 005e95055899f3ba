"""Labs in real containers as in docs/ci.md, with the Containerfile's image, Podman and runc."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.labs import container_engine
from tests.labs.container_engine import ROOT, Engine

PAGE = (ROOT / "docs" / "ci.md").read_text()
COMMANDS = re.findall(r"^podman run (.*)$", PAGE, re.MULTILINE)
RECIPES = [
    yaml.safe_load(block)
    for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
]
LAB = ROOT / "manifests" / "05-service-and-endpoints"


@pytest.fixture(scope="module")
def podman() -> Iterator[Engine]:
    """Yield an engine with the image, which is built once."""
    if reason := container_engine.missing_requirement():
        pytest.skip(reason)
    with container_engine.engine() as engine:
        yield engine


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Create a project with manifests and expectations in k8s/, which any user may write to."""
    shutil.copytree(LAB, tmp_path / "k8s")
    for directory in (tmp_path.parent.parent, tmp_path.parent):
        directory.chmod(0o755)
    tmp_path.chmod(0o777)
    return tmp_path


@pytest.mark.parametrize(
    "command", COMMANDS, ids=["privileged", "capabilities", "user", "read-only"]
)
def test_the_quickstart_in_a_container(podman: Engine, command: str) -> None:
    """Each documented way to run a container creates the lab, and all checks hold."""
    result = podman.run(*[word for word in shlex.split(command) if word != "--rm"]).stdout
    assert re.search(r"lab quickstart: (\d+) of \1 pods ready", result), result
    assert re.search(r"(\d+) checks in .*: \1 hold", result), result


def test_the_page_shows_every_kind_of_container() -> None:
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


def test_the_recipe_for_github_works(podman: Engine, checkout: Path) -> None:
    """The container has the options of the job; its steps create and check the lab."""
    (job,) = recipe("jobs")["jobs"].values()
    steps = [step["run"] for step in job["steps"] if "run" in step]
    check_script(podman, shlex.split(job["container"]["options"]), steps, checkout)


def test_the_recipe_for_gitlab_works(podman: Engine, checkout: Path) -> None:
    """The job's script runs in a container like that of a privileged runner."""
    job = recipe("network")["network"]
    assert job["artifacts"]["reports"]["junit"] == "network.xml"
    check_script(podman, ["--privileged"], job["script"], checkout)


def test_the_recipe_for_a_pod_works(podman: Engine, checkout: Path) -> None:
    """The container has only the permissions and volumes of the pod."""
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
    result = podman.run(*options, "kubenetlab", *container["command"]).stdout
    assert re.search(r"(\d+) checks in .*: \1 hold", result), result


def recipe(key: str) -> Any:
    """Return the recipe of the page that has a key."""
    return next(
        candidate for candidate in RECIPES if isinstance(candidate, dict) and key in candidate
    )


def options_of(context: Mapping[str, Any]) -> Sequence[str]:
    """Return the options of `podman run` for a security context, as CRI runtimes interpret it."""
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


def check_script(
    podman: Engine, options: Sequence[str], script: Sequence[str], checkout: Path
) -> None:
    """Run a recipe's script in a container, and check the report that it wrote."""
    result = podman.run(
        *options, "kubenetlab", "sh", "-e", "-c", "\n".join(script), mounted=checkout
    )
    assert re.search(r"(\d+) checks in .*: \1 hold", result.stdout), result
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
def test_an_ordinary_user_gets_advice_about_the_containers_restrictions(
    podman: Engine, options: Sequence[str], refusal: str, advice: str
) -> None:
    """`up` reports them before it creates anything, and doctor ends with 1."""
    errors = podman.run(*options, "kubenetlab", "kubenetlab", "up", status=1).stderr
    assert refusal in errors
    assert advice in errors
    doctor_output = podman.run(*options, "kubenetlab", "kubenetlab", "doctor", status=1).stdout
    (finding,) = re.findall(r"^✗ namespaces .*\n +→ .*$", doctor_output, re.MULTILINE)
    assert advice in finding

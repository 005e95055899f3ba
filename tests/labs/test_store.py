"""The store of a lab can always be loaded, or the lab goes on without it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.api.apps import Deployment
from kubenetlab.lab import rundir
from kubenetlab.lab.client import ApiError, Client
from kubenetlab.lab.store import store_file
from tests.labs.conftest import new_lab
from tests.labs.faulty import ROOT
from tests.labs.lab import Lab, ran, wait_for
from tests.patience import patiently

WEB = "/apis/apps/v1/namespaces/default/deployments/web"
MANIFEST = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: registry.k8s.io/e2e-test-images/agnhost:2.53, args: [netexec], ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(MANIFEST)
        yield lab


def store_of(lab: Lab) -> Path:
    return lab.directory / rundir.STORE


def numbers(lab: Lab) -> Any:
    """What a lab must not lose: each pod's process and addresses."""
    return {pod["name"]: (pod["pid"], pod["addresses"]) for pod in lab.seen["pods"]}


@pytest.mark.parametrize("replicas", [True, "2", 2.5, 10**30, -1, None, [2]], ids=repr)
def test_a_scale_that_is_no_number_is_refused(shared: Lab, replicas: Any) -> None:
    """The lab outlives its agent's next death."""
    before = numbers(shared)
    with pytest.raises(ApiError) as refused:
        Client(shared.name).request("PUT", f"{WEB}/scale", {"spec": {"replicas": replicas}})
    assert refused.value.code in (400, 422)
    assert "spec.replicas" in str(refused.value)
    shared.kill("agent")
    assert numbers(shared) == before
    assert not shared.faults


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"\0" * len(data),
        lambda data: data.replace(b'"format":1', b'"format":99', 1),
    ],
    ids=["half", "zeros", "newer-format"],
)
def test_a_damaged_store_does_not_end_a_lab(shared: Lab, damage: Callable[[bytes], bytes]) -> None:
    """Every command says so, `diff` by its exit status as well; what runs goes on, and the lab can
    be changed.
    """
    before = numbers(shared)
    store = store_of(shared)
    store.write_bytes(damage(store.read_bytes()))
    shared.kill("agent")
    assert (
        before.items() <= numbers(shared).items()
    )  # a pod of the store before may be there for a moment
    aside = shared.directory / "store.json.unreadable-1"
    for words in (
        ("get", "pods"),
        ("list",),
        ("inspect",),
        ("ping",),
        ("describe", "service", "web"),
    ):
        said = shared.run(*words) if words != ("list",) else ran(_command("list"), 0)
        assert (
            said.err.count(f"the lab's store could not be read and is set aside as {aside}") == 1
        ), words
    assert str(aside) in shared.run("diff", status=1).err
    shared.apply(MANIFEST.replace("replicas: 2", "replicas: 3"))
    wait_for(lambda: len(shared.pods("web")) == 3, "a third pod")
    aside.unlink()
    assert shared.run("get", "pods").err.count("set aside") == 0
    shared.apply(MANIFEST)
    wait_for(
        lambda: len(numbers(shared)) == len(before) and not shared.faults, "the lab to be as before"
    )


def test_without_any_store_the_lab_runs_and_says_so(lab: Lab) -> None:
    """Nothing of the kernel's is touched: the Service answers, and `down` takes everything away."""
    lab.up(MANIFEST)
    lab.run("scale", "deployment/web", "--replicas", "3")
    wait_for(lambda: not lab.faults, "all pods")
    client = lab.pod("web")
    address = lab.service("web")["cluster_ips"][0]
    for name in (store_of(lab), store_file.snapshot_of(store_of(lab))):
        name.write_bytes(b"nothing")
    (agent,) = lab.pids(f"kubenetlab {lab.name} agent")
    subprocess.run(["kill", "-KILL", str(agent)], check=True)
    for words in (("get", "pods"), ("diff",), ("apply", "-f", "-"), ("ping",)):
        said = lab.run(*words, given=MANIFEST, status=1)
        assert f"no store of lab {lab.name} can be read" in said.err, words
        assert "kubenetlab down" in said.err
    assert "200" in lab.inside(
        client, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{address}/hostname"
    )
    lab.down()
    assert not lab.remains


def test_a_controllers_mistake_is_reported_and_not_stored(lab: Lab, tmp_path: Path) -> None:
    """The pass fails, and the next ones until it is over; agents can die meanwhile, and what runs
    goes on.
    """
    flag = tmp_path / "flag"
    ran(
        _command(
            "up",
            "--lab",
            lab.name,
            "-f",
            "-",
            before=["-m", "tests.labs.mistaken", str(flag)],
            given=MANIFEST,
        ),
        0,
    )
    before = numbers(lab)
    flag.touch()
    pod = lab.pod("web")["name"]
    lab.run("delete", "pod", pod, "--no-wait")
    wait_for(
        lambda: "Deployment default/web: spec.replicas" in lab.run("diff", status=None).err,
        "the mistake to be shown",
    )
    lab.kill("agent")
    assert "Deployment default/web: spec.replicas" in wait_for(
        lambda: lab.run("diff", status=1).err, "the mistake to be shown"
    )
    web = store_file.load(store_of(lab)).get(Deployment, "default", "web")
    assert web is not None
    assert web.spec.replicas == 2
    others = {name: number for name, number in before.items() if name != pod}
    assert others.items() <= numbers(lab).items()
    flag.unlink()
    wait_for(lambda: len(numbers(lab)) == len(before) and not lab.faults, "the lab to be whole")


def _command(
    *words: str, before: list[str] | None = None, given: str | None = None
) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *(before or ["-m", "kubenetlab"]), *words]
    return subprocess.run(
        line,
        input=given,
        capture_output=True,
        text=True,
        check=True,
        timeout=patiently(90),
        cwd=ROOT,
    )

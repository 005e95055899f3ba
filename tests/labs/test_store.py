"""The store of a lab can always be loaded; otherwise the lab keeps running without it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.api.apps import Deployment
from kubenetlab.lab import rundir
from kubenetlab.lab.client import ApiError, Client
from kubenetlab.lab.store import store_file
from tests.clusters import deployment, service
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, run_module, wait_for

WEB = "/apis/apps/v1/namespaces/default/deployments/web"
MANIFEST = deployment(replicas=2) + service()


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(MANIFEST)
        yield lab


def store_of(lab: Lab) -> Path:
    return lab.directory / rundir.STORE


def identities(lab: Lab) -> Any:
    """Return the process and the addresses of each pod, which a lab must not lose."""
    return {pod["name"]: (pod["pid"], pod["addresses"]) for pod in lab.inspected["pods"]}


@pytest.mark.parametrize("replicas", [True, "2", 2.5, 10**30, -1, None, [2]], ids=repr)
def test_replicas_that_are_no_number_are_rejected(shared: Lab, replicas: Any) -> None:
    """The lab survives the next kill of its agent."""
    before = identities(shared)
    with pytest.raises(ApiError) as refused:
        Client(shared.name).request("PUT", f"{WEB}/scale", {"spec": {"replicas": replicas}})
    assert refused.value.code in (400, 422)
    assert "spec.replicas" in str(refused.value)
    shared.kill("agent")
    assert identities(shared) == before
    assert not shared.problems


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"\0" * len(data),
        lambda data: re.sub(rb'"format":[0-9]+', b'"format":99', data, count=1),
    ],
    ids=["half", "zeros", "newer-format"],
)
def test_a_lab_survives_a_damaged_store(shared: Lab, damage: Callable[[bytes], bytes]) -> None:
    """Every command reports it, `diff` also by its exit status.

    Pods keep running, and the lab can be changed.
    """
    before = identities(shared)
    store = store_of(shared)
    store.write_bytes(damage(store.read_bytes()))
    shared.kill("agent")
    # A pod of the former store may exist for a moment.
    assert before.items() <= identities(shared).items()
    damaged_copy = shared.directory / "store.json.unreadable-1"
    for words in (
        ("get", "pods"),
        ("list",),
        ("inspect",),
        ("ping",),
        ("describe", "service", "web"),
    ):
        result = shared.run(*words) if words != ("list",) else run_module("kubenetlab", "list")
        assert (
            result.err.count(
                f"the lab's store could not be read and is set aside as {damaged_copy}"
            )
            == 1
        ), words
    assert str(damaged_copy) in shared.run("diff", status=1).err
    shared.apply(MANIFEST.replace("replicas: 2", "replicas: 3"))
    wait_for(lambda: len(shared.pods("web")) == 3, "a third pod")
    damaged_copy.unlink()
    assert shared.run("get", "pods").err.count("set aside") == 0
    shared.apply(MANIFEST)
    wait_for(
        lambda: len(identities(shared)) == len(before) and not shared.problems,
        "the lab to be as before",
    )


def test_a_lab_runs_without_any_store_and_reports_it(lab: Lab) -> None:
    """The kernel state is not touched: the Service answers, and `down` removes everything."""
    lab.up(MANIFEST)
    lab.run("scale", "deployment/web", "--replicas", "3")
    wait_for(lambda: not lab.problems, "all pods")
    client = lab.pod("web")
    address = lab.service("web")["cluster_ips"][0]
    for path in (store_of(lab), store_file.snapshot_of(store_of(lab))):
        path.write_bytes(b"nothing")
    (agent,) = lab.pids(f"kubenetlab {lab.name} agent")
    subprocess.run(["kill", "-KILL", str(agent)], check=True)
    for words in (("get", "pods"), ("diff",), ("apply", "-f", "-"), ("ping",)):
        result = lab.run(*words, stdin=MANIFEST, status=1)
        assert f"no store of lab {lab.name} can be read" in result.err, words
        assert "kubenetlab down" in result.err
    assert "200" in lab.inside(
        client, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{address}/hostname"
    )
    lab.down()
    assert not lab.leftovers


def test_an_invalid_object_of_a_controller_is_reported_and_not_stored(
    lab: Lab, tmp_path: Path
) -> None:
    """Reconcile passes fail until the controller is repaired.

    Agents may be killed meanwhile, and pods keep running.
    """
    flag = tmp_path / "flag"
    run_module(
        "tests.labs.faulty_controller",
        str(flag),
        "up",
        "--lab",
        lab.name,
        "-f",
        "-",
        stdin=MANIFEST,
    )
    before = identities(lab)
    flag.touch()
    pod = lab.pod("web")["name"]
    lab.run("delete", "pod", pod, "--no-wait")
    wait_for(
        lambda: "Deployment default/web: spec.replicas" in lab.run("diff", status=None).err,
        "the error to be shown",
    )
    lab.kill("agent")
    wait_for(
        lambda: "Deployment default/web: spec.replicas" in lab.run("diff", status=1).err,
        "the error to be shown",
    )
    web = store_file.load(store_of(lab)).get(Deployment, "default", "web")
    assert web is not None
    assert web.spec.replicas == 2
    kept_pods = {name: identity for name, identity in before.items() if name != pod}
    assert kept_pods.items() <= identities(lab).items()
    flag.unlink()
    wait_for(
        lambda: len(identities(lab)) == len(before) and not lab.problems, "the lab to be whole"
    )

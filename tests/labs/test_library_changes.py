"""Tests change a lab from Python, ask who reaches whom, and reset it: with real packets."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from kubenetlab import AsyncLab, Lab, LabError, UsageError
from tests.clusters import ONE_NODE, deployment, pod, service
from tests.labs import lab as commands
from tests.labs.lab import wait_for
from tests.labs.test_library import leftovers, name
from tests.labs.users import User
from tests.patience import patiently

WEB = ONE_NODE + pod("client") + deployment("web", 2) + service("web")
IN_SHOP = ", namespace: shop"
SHOP = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n"
DENY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    with Lab.up(text=WEB, name=name("changes"), timeout_s=patiently(30)) as lab:
        yield lab
    assert leftovers(lab.name) == []


@pytest.fixture
def web(running: Lab) -> Iterator[Lab]:
    """Yield the lab of the module, and reset it after the test."""
    yield running
    running.reset(timeout_s=patiently(30))
    assert running.pod("client").can_reach("svc:web")
    assert len(running.get_all("pods", namespace="default")) == 3


def test_sources_ask_who_can_be_reached(web: Lab) -> None:
    """Pods, nodes and external hosts; names are those of the source's namespace."""
    client = web.pod("client")
    reached = client.can_reach("svc:web", 80)
    assert reached
    assert reached.ping.destination == "svc:default/web:80/TCP"
    refused = client.can_reach("deploy:web", 9)
    assert not refused
    assert "refused" in str(refused)
    assert web.node("control-plane").can_reach("client")
    assert not web.external("client").can_reach("svc:web", deadline_s=0.2)
    page = client.http("svc:web", "/hostname")
    assert page.body == page.server.removeprefix("default/")
    assert page.status == 200
    assert client.exec(["hostname"]).stdout == "client\n"
    with pytest.raises(UsageError, match="no pod default/nobody"):
        web.pod("nobody").can_reach("svc:web")


def test_names_are_relative_to_the_namespace_of_a_source(web: Lab) -> None:
    """The destination is searched where the source is."""
    web.apply(
        text=SHOP
        + pod("client", meta=", namespace: shop")
        + pod("other", meta=", namespace: shop"),
        timeout_s=patiently(30),
    )
    for source in (web.pod("client", namespace="shop"), web.pod("shop/client")):
        result = source.can_reach("other")
        assert result
        assert (result.ping.source, result.ping.destination) == ("shop/client", "shop/other")
        assert source.exec(["hostname"]).stdout == "client\n"
    assert web.pod("client").can_reach("shop/other")


def test_a_policy_is_in_force_when_apply_returns_and_gone_after_a_reset(web: Lab) -> None:
    web.apply(text=DENY, timeout_s=patiently(30))
    denied = web.pod("client").can_reach("svc:web", deadline_s=patiently(0.2))
    assert not denied
    assert denied.ping.ok
    assert any("default/deny isolates" in reason for reason in denied.reasons)
    web.reset()
    assert web.pod("client").can_reach("svc:web")
    with pytest.raises(LabError, match="not found"):
        web.get("networkpolicy", "deny")


def test_a_workload_is_scaled_and_its_pods_are_ready(web: Lab) -> None:
    """The reset restores the number of pods."""
    web.scale("deploy/web", 4, timeout_s=patiently(30))
    pods = web.get_all("pods", namespace="default")
    assert len(pods) == 5
    assert all(pod["status"]["phase"] == "Running" for pod in pods)
    done = web.run("rollout", "status", "deploy/web")
    assert (done.returncode, done.stdout) == (0, "rollout of deployment web is complete\n")
    web.scale("deploy/web", 0)
    assert web.get("deployment", "web")["spec"]["replicas"] == 0
    refused = web.pod("client").can_reach("svc:web")
    assert (bool(refused), refused.ping.ok) == (False, True)
    with pytest.raises(LabError, match="not found"):
        web.scale("deploy/nothing", 1)


def test_a_fault_has_an_id_and_can_be_healed(web: Lab) -> None:
    fault = web.break_("kube-proxy", node="control-plane", how="stopped")
    assert [item["metadata"]["name"] for item in web.get_all("faults")] == [fault]
    web.heal(fault)
    assert web.get_all("faults") == []
    web.break_("kube-proxy", node="control-plane", how="stopped")
    web.reset()
    assert web.get_all("faults") == []
    with pytest.raises(UsageError, match="kube-poxy"):
        web.break_("kube-poxy")


def test_deleted_objects_return_with_a_reset(web: Lab) -> None:
    """A pod starts anew; a Service has its former address."""
    address = web.get("service", "web")["spec"]["clusterIP"]
    uid = web.get("pod", "client")["metadata"]["uid"]
    web.delete("pod", "client")
    web.delete("service", "web")
    with pytest.raises(UsageError, match="no pod default/client"):
        web.pod("client").can_reach("deploy:web")
    web.reset(timeout_s=patiently(30))
    assert web.get("service", "web")["spec"]["clusterIP"] == address
    assert web.get("pod", "client")["metadata"]["uid"] != uid


def test_a_namespace_and_its_pods_are_gone_after_a_reset(web: Lab) -> None:
    web.apply(text=SHOP + pod("extra", meta=IN_SHOP), timeout_s=patiently(30))
    web.reset(timeout_s=patiently(30))
    assert "shop" not in [item["metadata"]["name"] for item in web.get_all("namespaces")]
    assert not [pod for pod in web.inspect()["pods"] if pod["namespace"] == "shop"]


def test_a_reset_survives_the_death_of_the_agent(web: Lab) -> None:
    """The next agent reads the checkpoint from a file."""
    web.apply(text=DENY, timeout_s=patiently(30))
    agent = web.inspect()["agent_pid"]
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: web.inspect()["agent_pid"] != agent, "another agent")
    web.reset(timeout_s=patiently(30))
    assert web.pod("client").can_reach("svc:web")


def test_a_checkpoint_of_its_own_is_the_state_after_a_reset(running: Lab) -> None:
    """The last one counts."""
    with Lab.up(text=ONE_NODE + pod("client"), name=name("point"), timeout_s=patiently(30)) as lab:
        lab.apply(text=pod("more"), timeout_s=patiently(30))
        lab.checkpoint()
        lab.delete("pod", "client")
        lab.reset(timeout_s=patiently(30))
        assert lab.pod("client").can_reach("more")


def test_a_lab_of_a_command_has_no_checkpoint() -> None:
    lab = commands.Lab(name("command"))
    try:
        lab.up(ONE_NODE)
        with pytest.raises(LabError, match="no checkpoint"):
            Lab(lab.name).reset()
    finally:
        lab.down()


def test_events_describe_what_happened(web: Lab) -> None:
    web.scale("deploy/web", 3, timeout_s=patiently(30))
    (event,) = [event for event in web.events() if "from 2 to 3" in event.message]
    assert (event.type, event.kind, event.namespace, event.name) == (
        "Normal",
        "Deployment",
        "default",
        "web",
    )
    assert str(event).startswith("Normal ScalingReplicaSet Deployment default/web: Scaled up")
    assert event in web.events(namespace="default")


def test_a_lab_is_used_from_coroutines() -> None:
    """Probes run at the same time, and the lab is removed at the end of the block."""

    async def use() -> str:
        async with await AsyncLab.up(text=WEB, name=name("async"), timeout_s=patiently(30)) as lab:
            assert (repr(lab), lab.is_up) == (f"AsyncLab({lab.name!r})", True)
            client = lab.pod("client")
            results = await asyncio.gather(*(client.can_reach("svc:web") for _ in range(4)))
            assert all(results)
            await lab.apply(text=DENY)
            assert not await client.can_reach("svc:web", deadline_s=patiently(0.2))
            await lab.reset()
            assert (await client.http("svc:web", "/hostname")).status == 200
            assert (await lab.node("control-plane").exec(["hostname"])).stdout == "control-plane\n"
            assert not await lab.external("client").can_reach("svc:web", deadline_s=0.2)
            return lab.name

    assert leftovers(asyncio.run(use())) == []


def test_a_lab_that_is_cancelled_while_it_is_made_is_removed() -> None:
    """Its thread cannot be stopped, so the lab is removed when it is complete."""
    lab_name = name("cancelled")

    async def use() -> None:
        task = asyncio.create_task(AsyncLab.up(text=WEB, name=lab_name, timeout_s=patiently(30)))
        while not commands.Lab(lab_name).directory.exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(use())
    assert leftovers(lab_name) == []


SCRIPT = f"""
from kubenetlab import Lab
with Lab.up(text={WEB!r}, timeout_s={patiently(60)}) as lab:
    client = lab.pod("client")
    assert client.can_reach("svc:web")
    assert client.http("svc:web", "/hostname").status == 200
    lab.apply(text={DENY!r})
    assert not client.can_reach("svc:web", deadline_s={patiently(0.2)})
    lab.scale("deploy/web", 3)
    lab.reset()
    assert client.can_reach("svc:web")
    print(len(lab.get_all("pods", namespace="default")), end="")
"""


def test_an_ordinary_user_changes_and_resets_a_lab(nobody: User) -> None:
    result = nobody.run_python("-", stdin=SCRIPT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "3", "")

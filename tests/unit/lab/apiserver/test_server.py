"""API server: a change is on disk before it is acknowledged."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kubenetlab.api.apps import Deployment
from kubenetlab.api.lab import ContainerReport
from kubenetlab.api.store import Change, Cluster
from kubenetlab.api.text.documents import read_documents
from kubenetlab.controllers.states import ControllerStates
from kubenetlab.errors import BugError
from kubenetlab.lab import machine
from kubenetlab.lab.agent.turns import run_synchronously
from kubenetlab.lab.apiserver.server import ApiServer
from kubenetlab.lab.apiserver.statuses import warnings_of
from kubenetlab.lab.clock import Clock
from kubenetlab.lab.runtime.container_logs import LogPart
from kubenetlab.lab.store import store_file
from kubenetlab.lab.store.store_file import StoreFile
from kubenetlab.lab.transport.exchange import Exchange
from kubenetlab.lab.transport.http import Stream, fetch, serve
from kubenetlab.programs.support.http import Request, Response
from tests.clusters import NOW, deployment, pod, report, running, settled, store
from tests.unit.observe.policies.worlds import policy

WEB = "/apis/apps/v1/namespaces/default/deployments/web"


class DyingAgent:
    """Agent that serves requests and never reconciles, as if it were killed after each response."""

    def __init__(self, cluster: Cluster, path: Path) -> None:
        self.cluster = self._saved = cluster
        self._path = path
        self.directory = path.parent
        self._store_file = StoreFile(path, None)
        self.clock = Clock(time.time() - time.monotonic())
        self.saves = 0
        self.observed_state = SimpleNamespace(mark_stale=lambda namespaces: None)
        self.controller_states = ControllerStates()
        self.runtime = SimpleNamespace()

    def apply_changes(self, changes: Iterable[Change]) -> None:
        self.cluster = self.cluster.with_changes(changes)

    def replace(self, cluster: Cluster, states: ControllerStates | None = None) -> None:
        self.cluster, self.controller_states = cluster, states or self.controller_states

    def save(self) -> None:
        if self.cluster is not self._saved:
            self._store_file.save(self.cluster)
            self._saved = self.cluster
            self.saves += 1

    def wake(self, *, check: bool = False) -> None:
        pass

    def require_capacity(self, cluster: Cluster, before: Cluster) -> None:
        pass


def ask(agent: DyingAgent, method: str, path: str, body: Any = None) -> Response:
    """Send one request to the API server of an agent and return the response."""

    async def exchange() -> Response:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        server = ApiServer(agent, theirs)  # type: ignore[arg-type]
        serving = asyncio.get_running_loop().create_task(serve(theirs, server._handle))
        answer = await fetch(ours, method, path, body=json.dumps(body).encode())
        ours.close()
        await serving
        return answer

    return asyncio.run(exchange())


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("PUT", f"{WEB}/scale", {"spec": {"replicas": 5}}, 5),
        ("PUT", f"{WEB}/restart", None, "kubectl.kubernetes.io/restartedAt"),
        ("DELETE", WEB, None, None),
        ("POST", "/apis/kubenetlab.dev/v1alpha1/apply", "replicas: 7", 7),
    ],
    ids=["scale", "restart", "delete", "apply"],
)
def test_an_acknowledged_change_is_on_disk(
    tmp_path: Path, method: str, path: str, body: Any, expected: Any
) -> None:
    """A change survives an agent that is killed right after its response; it is written once."""
    agent = DyingAgent(store(deployment("web", 2)), tmp_path / "store.json")
    if isinstance(body, str):
        documents, _ = read_documents(
            "web.yaml", deployment("web", 2).replace("replicas: 2", body).encode()
        )
        body = {"documents": [document.value for document in documents]}
    assert ask(agent, method, path, body).status == 200
    assert agent.saves == 1
    saved = store_file.load(tmp_path / "store.json").get(Deployment, "default", "web")
    if expected is None:
        assert saved is None or saved.is_terminating
    else:
        assert saved is not None
        assert expected in (saved.spec.replicas, *saved.spec.template.metadata.annotations)


def test_a_request_without_changes_writes_nothing(tmp_path: Path) -> None:
    """Reads and refused requests do not change the store."""
    agent = DyingAgent(store(deployment("web", 2)), tmp_path / "store.json")
    assert ask(agent, "GET", WEB).status == 200
    assert ask(agent, "PUT", f"{WEB}/scale", {"spec": {"replicas": -1}}).status == 422
    assert agent.saves == 0


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", f"{WEB}/scale", {"spec": {"replicas": True}}),
        ("POST", "/apis/kubenetlab.dev/v1alpha1/uplink", {"machine": [1], "router": [[2]]}),
    ],
    ids=["scale", "uplink"],
)
def test_an_unreadable_value_is_refused(tmp_path: Path, method: str, path: str, body: Any) -> None:
    agent = DyingAgent(store(deployment("web", 2)), tmp_path / "store.json")
    before = agent.cluster
    response = ask(agent, method, path, body)
    assert response.status in (400, 422)
    assert json.loads(response.body)["status"] == "Failure"
    assert agent.cluster is before


def test_every_response_carries_the_warnings(tmp_path: Path) -> None:
    """A file that was set aside causes a warning with its name until it is removed."""
    agent = DyingAgent(store(deployment("web", 2)), tmp_path / "store.json")
    assert "warning" not in ask(agent, "GET", WEB).headers
    (tmp_path / "store.json.unreadable-1").write_text("")
    for path in (WEB, "/api/v1/nothing"):
        (warning,) = warnings_of(ask(agent, "GET", path).headers["warning"])
        assert str(tmp_path / "store.json.unreadable-1") in warning


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_log_that_is_no_longer_kept_causes_a_warning(tmp_path: Path, is_kept: bool) -> None:
    """An empty response alone would mean that the container has printed nothing."""
    cluster = report(
        running(store(pod("web"))), "web", ContainerReport(0, "exited", 0), now=NOW + 1
    )
    agent = DyingAgent(settled(cluster, NOW + 1), tmp_path / "store.json")

    async def logs(*args: Any, **kwargs: Any) -> LogPart | None:
        return LogPart([], 0) if is_kept else None

    agent.runtime = SimpleNamespace(logs=logs)
    response = ask(agent, "GET", "/api/v1/namespaces/default/pods/web/log")
    assert (response.status, response.body) == (200, b"")
    warnings = warnings_of(response.headers.get("warning", ""))
    assert ["is not kept any more" in warning for warning in warnings] == [True] * (not is_kept)


def test_a_change_that_cannot_be_written_is_undone(tmp_path: Path) -> None:
    """The response names the reason, and the store is unchanged."""
    agent = DyingAgent(store(deployment("web", 2)), tmp_path / "nowhere" / "store.json")
    before = agent.cluster
    response = ask(agent, "PUT", f"{WEB}/scale", {"spec": {"replicas": 5}})
    assert response.status == 507
    assert b"nothing was changed: the lab's store cannot be written: " in response.body
    assert b"store.json: No such file or directory" in response.body
    assert agent.cluster is before


def test_a_stream_ends_when_its_client_disconnects() -> None:
    """It ends at once, also while there is nothing to send."""

    async def story() -> None:
        is_closed = asyncio.Event()

        async def parts() -> AsyncGenerator[bytes, None]:
            try:
                yield b"first\n"
                await asyncio.Event().wait()
            finally:
                is_closed.set()

        async def handler(request: Request) -> Stream:
            return Stream(parts())

        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        serving = asyncio.get_running_loop().create_task(serve(theirs, handler))
        exchange = Exchange("GET", "/", {}, is_stream=True)
        await asyncio.get_running_loop().sock_sendall(ours, exchange.request_bytes)
        while not exchange.feed(await asyncio.get_running_loop().sock_recv(ours, 4096)):
            pass
        ours.close()
        async with asyncio.timeout(10):
            await is_closed.wait()
            await serving

    asyncio.run(story())


def test_a_change_that_waits_is_a_bug() -> None:
    """Another request could change the store meanwhile, and would be undone with this one."""

    async def change(pause_s: float | None) -> str:
        if pause_s is not None:
            await asyncio.sleep(pause_s)
        return "changed"

    assert run_synchronously(change(None)) == "changed"
    with pytest.raises(BugError, match="waited"):
        run_synchronously(change(0))


def test_a_replaced_policy_engine_is_reported_with_the_first_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is in the reply to the first policy, and in no later one."""
    fault = {"iptables": "requires ipset (apt-get install ipset)"}
    monkeypatch.setattr(machine, "_engine_fault", lambda name: fault.get(name, ""))
    config = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: calico}\n---\n"
    agent = DyingAgent(store(config + pod("a")), tmp_path / "store.json")

    def notes(name: str) -> list[str]:
        text = policy("{podSelector: {}}", name)
        documents, _ = read_documents("policy.yaml", text.encode())
        body = {"documents": [document.value for document in documents]}
        reply = ask(agent, "POST", "/apis/kubenetlab.dev/v1alpha1/apply", body)
        return json.loads(reply.body)["notes"]  # type: ignore[no-any-return]

    assert notes("first") == ["policy engine nftables: requires ipset (apt-get install ipset)"]
    assert notes("second") == []

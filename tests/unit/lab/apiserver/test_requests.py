"""Random requests to the API: each is answered, and the store can be loaded and planned from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kubenetlab.api.kinds import SERVED
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import plan
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.hoststate.state import HostState
from kubenetlab.lab.apiserver.server import ApiServer
from kubenetlab.lab.machine import decisions
from kubenetlab.lab.paths import LAB_API, kind_path
from kubenetlab.lab.store import store_file
from kubenetlab.lab.transport.http import Answer, FdReply, Stream
from kubenetlab.programs.support.http import Request, Response
from tests.clusters import deployment, pod, running, service, store
from tests.examples import examples
from tests.mutations import ODD, Mutator, edited, paths
from tests.unit.lab.apiserver.test_server import DyingAgent

CHANGES: dict[str, dict[str, Any]] = {
    "apply": {"documents": [], "sources": [{"file": "/a.yaml", "line": 1}, None]},
    "plan": {"documents": [], "script": True},
    "delete": {"keys": [["Widget", "default", "w"]]},
    "break": {"fault": "kube-proxy", "options": {"node": "worker", "how": "stop"}},
    "uplink": {"machine": ["10.0.0.1", "fd00::1"], "router": ["10.0.0.2", "fd00::2"]},
}
READS = ("given", "settled", "enter", "detail", "inspect", "apply", "nothing")
START = running(store(deployment("web", 2) + service() + pod("client")))
DIGITS, DEEP = b"9" * 5000, b"[" * 100_000
RAW = (
    b"",
    b"null",
    b"[]",
    b"1",
    b"{",
    b'"\\ud800"',
    b"\xff",
    DIGITS,
    DEEP,
    b'{"documents":' + DEEP,
    b'{"spec":{"replicas":' + DIGITS + b"}}",
)


class ReadableAgent(DyingAgent):
    """Agent of a lab without kernel objects, with everything that read requests show."""

    def __init__(self, cluster: Cluster, path: Path) -> None:
        super().__init__(cluster, path)
        self.lab = "x"
        self.desired_state = SimpleNamespace(state_for=lambda cluster: HostState({}))
        self.known: dict[str, Any] = {}
        self.observed: dict[str, Any] = {}
        self.failures: dict[str, str] = {}
        self.is_idle = True
        self.sandboxes = SimpleNamespace(pauses={}, pids={}, id=lambda netns: None)
        self.builder = SimpleNamespace(links=SimpleNamespace(path=str, init_pid=1, outer_pid=int))
        self.runtime = SimpleNamespace(pid=lambda netns, container: None, logs=_no_logs)
        self.contexts = SimpleNamespace(get=lambda netns: None)

    @property
    def decisions(self) -> Any:
        return decisions(self.cluster)


async def _no_logs(*_: Any, **__: Any) -> None:
    return None


def response_to(
    agent: ReadableAgent,
    method: str,
    target: str,
    body: bytes,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return the response of the API, for a stream only its head; raise unexpected exceptions."""

    async def ask() -> Answer:
        server = ApiServer(agent, None)  # type: ignore[arg-type]
        return await server._handle(Request(method, target, ("", 0), headers or {}, body))

    answer = asyncio.run(ask())
    assert not isinstance(answer, FdReply)
    return Response(200) if isinstance(answer, Stream) else answer


def check(agent: ReadableAgent, response: Response, path: Path) -> None:
    """Check a response, and that the next agent could load the store and plan from it."""
    assert response.status in (200, 400, 403, 404, 405, 409, 422, 507), response
    if response.status >= 400:
        status = json.loads(response.body)
        assert status["status"] == "Failure"
        assert status["message"]
    agent.save()
    loaded = store_file.load(path) if path.exists() else agent.cluster
    plan(loaded, decisions(loaded), PlanCache())


def mutated(random: Random, value: Any) -> Any:
    """Return a request body with one or two random changes."""
    for _ in range(random.choice([1, 1, 2])):
        place = random.choice(paths(value))
        new = random.choice([*ODD, int(DIGITS[:4000])])
        value = edited(value, place, lambda step, old, new=new: {step: new}) if place else new
    return value


def requests(random: Random) -> Iterable[tuple[str, str, bytes]]:
    """Yield a random request: a change of the lab's own API, a scale or restart, or a read."""
    words = [*map(str, ODD[:40]), "web", "client", "default", "pods", "x" * 3000, "9" * 5000]
    match random.choice(["documents", "documents", "odd", "kinds", "reads", "raw"]):
        case "documents":
            name = random.choice(["apply", "plan"])
            yield (
                "POST",
                f"{LAB_API}/{name}",
                json.dumps({**CHANGES[name], "documents": Mutator(random).documents()}).encode(),
            )
        case "odd":
            name = random.choice(list(CHANGES))
            yield (
                "POST",
                f"{LAB_API}/{name}",
                json.dumps(mutated(random, CHANGES[name]), default=str).encode(),
            )
        case "raw":
            name = random.choice(
                [f"{LAB_API}/{name}" for name in CHANGES]
                + ["/apis/apps/v1/namespaces/default/deployments/web/scale"]
            )
            yield random.choice(["POST", "PUT"]), name, random.choice(RAW)
        case "kinds":
            root = kind_path(
                random.choice(SERVED), random.choice(["default", None, random.choice(words)])
            )
            part = random.choice(["", "/scale", "/restart", "/log", f"/{random.choice(words)}"])
            method = random.choice(["GET", "GET", "PUT", "DELETE", "POST", "PATCH", "HEAD"])
            yield (
                method,
                f"{root}/{random.choice(words)}{part}?{_query(random, words)}",
                json.dumps(random.choice(ODD)).encode(),
            )
        case "reads":
            yield "GET", f"{LAB_API}/{random.choice(READS)}?{_query(random, words)}", b""


def _query(random: Random, words: list[str]) -> str:
    names = (
        "timeout",
        "netns",
        "container",
        "labelSelector",
        "tailLines",
        "watch",
        "previous",
        "follow",
        "x",
    )
    return "&".join(
        f"{random.choice(names)}={random.choice(words)}" for _ in range(random.choice([0, 1, 2]))
    )


@settings(
    max_examples=examples(150),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(random=st.randoms(use_true_random=False))
def test_any_request_is_answered(tmp_path_factory: pytest.TempPathFactory, random: Random) -> None:
    path = tmp_path_factory.mktemp("requests") / "store.json"
    agent = ReadableAgent(START, path)
    for _ in range(2):
        for method, target, body in requests(random):
            check(agent, response_to(agent, method, target, body), path)


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: raw[:24].decode(errors="replace"))
@pytest.mark.parametrize("name", CHANGES)
def test_an_invalid_request_body_is_refused(tmp_path: Path, name: str, raw: bytes) -> None:
    agent = ReadableAgent(START, tmp_path / "store.json")
    response = response_to(agent, "POST", f"{LAB_API}/{name}", raw)
    assert response.status == 400
    check(agent, response, tmp_path / "store.json")
    assert agent.cluster is START


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"documents": {}}, "documents"),
        ({"documents": [1]}, "documents[0]"),
        ({"documents": [], "sources": [{"file": 1, "line": 1}]}, "sources[0].file"),
        ({}, "documents"),
    ],
    ids=["mapping", "number", "source", "nothing"],
)
def test_the_invalid_field_is_named(tmp_path: Path, body: Any, message: str) -> None:
    response = response_to(
        ReadableAgent(START, tmp_path / "store.json"),
        "POST",
        f"{LAB_API}/apply",
        json.dumps(body).encode(),
    )
    assert response.status == 400
    assert message in json.loads(response.body)["message"]


@pytest.mark.parametrize(
    "ends",
    [
        (["x"], ["y"]),
        (["10.0.0.1/30"], ["10.0.0.2"]),
        (["10.0.0.1"], []),
        (["10.0.0.1"], ["fd00::1"]),
    ],
)
def test_invalid_addresses_of_an_uplink_are_refused(
    tmp_path: Path, ends: tuple[list[str], list[str]]
) -> None:
    body = json.dumps(dict(zip(("machine", "router"), ends, strict=True))).encode()
    assert (
        response_to(
            ReadableAgent(START, tmp_path / "store.json"), "POST", f"{LAB_API}/uplink", body
        ).status
        == 400
    )


@pytest.mark.parametrize("timeout", ["nan", "inf", "-1", "x", "1e999", "9" * 5000])
def test_an_invalid_timeout_is_refused(tmp_path: Path, timeout: str) -> None:
    assert (
        response_to(
            ReadableAgent(START, tmp_path / "store.json"),
            "GET",
            f"{LAB_API}/settled?timeout={timeout}",
            b"",
        ).status
        == 400
    )

"""Fake plugins and a fake store of results for tests of the runtime."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

from kubenetlab.cni import conflist
from kubenetlab.cni.conflist import NetworkList
from kubenetlab.cni.failures import Outcome
from kubenetlab.cni.invocations import Arguments, Invocation

POD = Arguments(
    "abc123",
    "/proc/7/ns/net",
    "eth0",
    (("K8S_POD_NAME", "web"), ("K8S_POD_NAMESPACE", "default")),
    {"portMappings": [{"hostPort": 80}], "mac": "0a:00:00:00:00:01"},
)

FIRST = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "/proc/7/ns/net", "mac": "0a:00:00:00:00:02"}],
    "ips": [{"address": "10.1.0.5/24", "interface": 0}],
}
SECOND = FIRST | {"routes": [{"dst": "0.0.0.0/0"}]}

Answer = Callable[[Invocation], Outcome]


def network(version: str = "1.0.0", **fields: Any) -> NetworkList:
    document = {
        "cniVersion": version,
        "name": "mynet",
        "plugins": [
            {"type": "bridge", "capabilities": {"mac": True}, "mtu": 1400},
            {"type": "portmap", "capabilities": {"portMappings": True, "ips": True}},
        ],
    }
    loaded, findings = conflist.load(document | fields)
    assert loaded is not None, findings
    return loaded


class Plugins:
    """Executor that answers from a table, and remembers its calls."""

    directories: Sequence[str] = ("/opt/cni/bin", "/usr/lib/cni")

    def __init__(self, **answers: object) -> None:
        """Create the executor; an answer is a document, an Outcome, or a function."""
        self.calls: list[Invocation] = []
        self.answers = answers

    @property
    def called(self) -> list[str]:
        return [f"{call.environment['CNI_COMMAND']} {call.program}" for call in self.calls]

    def stdin(self, index: int) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.calls[index].stdin)
        return document

    def find(self, program: str) -> bool:
        return program in self.answers

    def run(self, invocation: Invocation) -> Outcome:
        self.calls.append(invocation)
        answer = self.answers[invocation.program]
        if callable(answer):
            answer = answer(invocation)
        if isinstance(answer, Outcome):
            return answer
        is_add = invocation.environment["CNI_COMMAND"] == "ADD"
        return Outcome(json.dumps(answer).encode() if is_add else b"")


class Memory:
    """Store of results in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)

    def write(self, name: str, content: bytes) -> None:
        self.files[name] = content

    def delete(self, name: str) -> None:
        self.files.pop(name, None)

    def names(self) -> Collection[str]:
        return self.files.keys()


def failing(code: int, message: str, details: str = "", *, on: str = "") -> Answer:
    """Return a plugin that fails with an error, at one command or at all."""
    document = {"code": code, "msg": message, "details": details}

    def answer(invocation: Invocation) -> Outcome:
        if on and invocation.environment["CNI_COMMAND"] != on:
            return Outcome()
        return Outcome(json.dumps(document).encode(), exit_status=1)

    return answer

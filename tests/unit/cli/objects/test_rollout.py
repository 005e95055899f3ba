"""`rollout status` follows the changes of a workload instead of polling it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from kubenetlab.cli.objects import rollout
from kubenetlab.errors import LabError
from kubenetlab.lab import client as client_module
from kubenetlab.lab.client import ApiError

BOOKMARK = {"type": "BOOKMARK", "object": {"kind": "Deployment", "metadata": {}}}


def web(available: int, name: str = "web") -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "generation": 1},
        "spec": {"replicas": 2},
        "status": {
            "observedGeneration": 1,
            "replicas": 2,
            "updatedReplicas": 2,
            "availableReplicas": available,
        },
    }


def event(document: dict[str, Any], type_: str = "MODIFIED") -> dict[str, Any]:
    return {"type": type_, "object": document}


class FakeClient:
    """A client whose watches return the given events; the last watch waits for the deadline."""

    def __init__(self, *watches: list[dict[str, Any]]) -> None:
        self._watches = iter(watches)
        self.gets = 0
        self.is_deleted = False

    def get(self, path: str) -> dict[str, Any]:
        self.gets += 1
        if self.is_deleted:
            raise ApiError({"code": 404, "message": 'deployments "web" not found'})
        return web(0)

    def stream(self, path: str, deadline: float, *, watch: str) -> Iterator[dict[str, Any]]:
        assert (path, watch) == ("/apis/apps/v1/namespaces/default/deployments", "true")
        for entry in next(self._watches, []):
            self.is_deleted = entry["type"] == "DELETED"
            yield entry


def status(monkeypatch: pytest.MonkeyPatch, client: FakeClient, timeout: str) -> None:
    monkeypatch.setattr(client_module, "select_lab", lambda lab: client)
    rollout.status(["deployment/web"], timeout=timeout)


def test_the_end_of_a_rollout_is_an_event(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every state is printed once; other objects are ignored; a restarted agent is watched anew."""
    client = FakeClient(
        [event(web(0), "ADDED"), event(web(2, "other"), "ADDED"), BOOKMARK, event(web(1))],
        [event(web(1), "ADDED"), BOOKMARK, event(web(2))],
    )
    status(monkeypatch, client, "60s")
    assert capsys.readouterr().out.splitlines() == [
        "waiting: 0 of 2 pods are available",
        "waiting: 1 of 2 pods are available",
        "rollout of deployment web is complete",
    ]
    assert client.gets == 1


def test_the_timeout_ends_a_rollout_that_makes_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the last state, also if the agent closes each connection without a reply."""
    start = time.monotonic()
    with pytest.raises(LabError, match=r"web is not complete after 1s: 0 of 2 pods are available"):
        status(monkeypatch, FakeClient([event(web(0), "ADDED"), BOOKMARK]), "1s")
    assert time.monotonic() - start >= 1


def test_the_deletion_of_the_workload_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error: the rollout will never be complete."""
    client = FakeClient([event(web(0), "ADDED"), BOOKMARK, event(web(0), "DELETED")])
    with pytest.raises(LabError, match='deployments "web" not found'):
        status(monkeypatch, client, "60s")

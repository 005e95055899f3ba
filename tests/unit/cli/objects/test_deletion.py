"""Waiting for deleted objects: which requests it takes, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from kubenetlab.api.pods import Pod
from kubenetlab.cli.objects import deletion
from kubenetlab.errors import LabError
from kubenetlab.lab.client import ApiError, Client

NOT_FOUND = {"code": 404, "message": "not found"}
PODS = [((Pod, "default", f"web-{number}"), f"uid-{number}") for number in range(50)]


class FakeClient:
    """A client of a lab in which the first pod ends after some requests, the others with it."""

    def __init__(self, requests_until_end: int) -> None:
        self.requests = 0
        self._requests_until_end = requests_until_end
        self.replaced: tuple[str, ...] = ()

    def get(self, path: str) -> dict[str, Any]:
        if path.endswith("/pods"):
            return {"items": []}
        self.requests += 1
        name = path.rpartition("/")[2]
        if name in self.replaced:
            return {"metadata": {"uid": "new"}}
        if self.requests > self._requests_until_end:
            raise ApiError(NOT_FOUND)
        return {"metadata": {"uid": f"uid-{name.partition('-')[2]}"}}

    def stream(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        yield {"idle": True}


def wait(client: FakeClient) -> None:
    deletion._wait(cast("Client", client), PODS)


def test_one_object_at_a_time_is_requested() -> None:
    """Fifty pods that end together cost one request each, beside those for the first one.

    An object that was created anew under the same name is not waited for.
    """
    client = FakeClient(10)
    client.replaced = ("web-7",)
    wait(client)
    assert client.requests == 10 + len(PODS)


def test_an_object_that_stays_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the objects that are still there, not those that are gone."""
    monkeypatch.setattr(deletion, "WAIT_S", 0.05)
    client = FakeClient(1_000_000)
    client.replaced = tuple(f"web-{number}" for number in range(2, 50))
    with pytest.raises(LabError) as caught:
        wait(client)
    assert str(caught.value) == (
        "not deleted after 0.05 s: Pod default/web-0, Pod default/web-1; "
        "see: kubenetlab describe pod web-0"
    )

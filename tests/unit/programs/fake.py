"""A fake container and a fake context in which programs run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from kubenetlab import programs
from kubenetlab.api.containers import Container
from kubenetlab.programs.support.http import ProgramContext, Request, Response
from tests.clusters import NOW

AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.47"


def container(**fields: Any) -> Container:
    return msgspec.convert({"name": "c", "image": AGNHOST, **fields}, Container)


class FakeNetwork:
    """A network with one server at 10.0.0.9, called `web`; other connections are refused."""

    async def resolve(self, name: str, versions: Sequence[int] = ()) -> str:
        if name in ("web", "10.0.0.9", "10.0.0.8"):
            return "10.0.0.9" if name == "web" else name
        raise OSError(f"lookup {name}: no such host")

    async def get(self, address: str, port: int, target: str, timeout_s: float) -> Response:
        if address != "10.0.0.9":
            raise OSError(111, f"dial tcp {address}:{port}: connect: connection refused")
        return Response(200, f"GET {target}".encode())

    async def exchange(
        self, address: str, port: int, data: bytes, timeout_s: float, protocol: str = "UDP"
    ) -> bytes:
        return b"re: " + data

    async def connect(self, address: str, port: int, timeout_s: float) -> None:
        if address != "10.0.0.9":
            raise OSError(111, "refused")


class FakeProgram:
    """A program with a fake context that records its log and its end."""

    def __init__(self, **options_: Any) -> None:
        self.lines: list[str] = []
        self.exits: list[tuple[int, float]] = []
        self.context = ProgramContext(
            "default",
            "web-0",
            "web-0",
            "10.244.1.2",
            "worker",
            "c",
            options_,
            FakeNetwork(),
            self.lines.append,
            self._exit,
            lambda: "12:00",
            lambda: NOW,
        )

    def _exit(self, status: int, after_s: float) -> None:
        self.exits.append((status, after_s))

    def get(self, program: str, target: str, port: int = 8080) -> Response:
        headers = {"host": "web", "user-agent": "curl/8", "x-team": "blue"}
        request = Request("GET", target, ("10.244.2.7", 40000), headers, port=port)
        response: Response = asyncio.run(programs.load(program).http(request, self.context))
        return response

    def send(self, program: str, data: bytes) -> bytes | None:
        response: bytes | None = programs.load(program).datagram(
            data, ("10.244.2.7", 40000), self.context
        )
        return response

"""CoreDNS as a server of TCP connections."""

from __future__ import annotations

import asyncio
import socket

import pytest

from kubenetlab.lab.runtime import coredns
from kubenetlab.lab.transport import dns_stream
from tests.patience import patiently
from tests.unit.programs.dns.test_messages import encoded_question, zone_with_addresses


def test_a_client_that_reads_no_responses_is_disconnected(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Otherwise each such client would keep a connection and an unsent response forever."""
    monkeypatch.setattr(coredns, "TCP_TIMEOUT_S", 0.2)
    server = coredns.CoreDNS("/nowhere")
    server._zone = zone_with_addresses(30)
    questions = dns_stream.frame(encoded_question("many.cluster.local")) * 50_000

    async def story() -> None:
        loop = asyncio.get_running_loop()
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as client,
        ):
            client.setblocking(False)
            connection, _ = listener.accept()
            asking = loop.create_task(loop.sock_sendall(client, questions))
            try:
                async with asyncio.timeout(patiently(10)):
                    await server._tcp(connection)
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            assert connection.fileno() == -1

    asyncio.run(story())
    assert "A IN many.cluster.local. tcp" in capfd.readouterr().out

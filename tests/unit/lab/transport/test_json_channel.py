"""Message connections between a lab's processes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from kubenetlab.lab.transport.json_channel import Channel, RpcConnection
from kubenetlab.lab.transport.json_frames import FrameDecoder, Message, encode

Story = Callable[[Channel, socket.socket], Awaitable[None]]


def run(story: Story) -> None:
    """Run a story with a channel at one end of a connection and a socket at the other."""

    async def both() -> None:
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        try:
            async with asyncio.timeout(10):
                await story(channel, theirs)
        finally:
            channel.close()
            theirs.close()

    asyncio.run(both())


def test_messages_of_one_loop_iteration_are_sent_in_one_write() -> None:
    """They keep their order."""

    async def story(channel: Channel, other: socket.socket) -> None:
        for number in range(50):
            channel.send({"number": number})
        await channel.sent()
        assert [message["number"] for message in FrameDecoder().feed(other.recv(1 << 16))] == list(
            range(50)
        )

    run(story)


def test_a_message_larger_than_the_socket_buffer_is_sent() -> None:
    """A message that is sent meanwhile follows it."""

    async def story(channel: Channel, other: socket.socket) -> None:
        channel.send({"text": "x" * 3_000_000})
        await asyncio.sleep(0)
        channel.send({"text": "end"})
        other.setblocking(False)
        frames = FrameDecoder()
        received: list[Message] = []
        while len(received) < 2:
            received += frames.feed(await asyncio.get_running_loop().sock_recv(other, 1 << 16))
        assert [len(message["text"]) for message in received] == [3_000_000, 3]

    run(story)


def test_calls_fail_when_the_peer_has_died() -> None:
    """Calls that wait for a reply fail, and so do later ones."""

    async def story(channel: Channel, other: socket.socket) -> None:
        caller = RpcConnection(channel)

        async def listen() -> list[Message]:
            return [event async for event in caller.events()]

        listening = asyncio.create_task(listen())
        calls = [asyncio.create_task(caller.call(do="this"))]
        await asyncio.sleep(0)
        other.close()
        calls.append(asyncio.create_task(caller.call(do="that")))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionResetError, ConnectionResetError]
        assert await listening == []
        with pytest.raises(ConnectionResetError):
            await caller.call(do="one more")

    run(story)


def test_each_part_of_a_request_gets_a_reply() -> None:
    """The request is sent once. If the peer dies, the parts without a reply get an error."""

    async def story(channel: Channel, other: socket.socket) -> None:
        caller = RpcConnection(channel)
        listening = asyncio.create_task(anext(caller.events(), None))
        futures = [asyncio.get_running_loop().create_future() for _ in "abc"]
        caller.call_each(
            {"do": "this"},
            {future: {"what": name} for name, future in zip("abc", futures, strict=True)},
        )
        await channel.sent()
        (request,) = FrameDecoder().feed(other.recv(1 << 16))
        assert (request["do"], [part["what"] for part in request["each"]]) == (
            "this",
            ["a", "b", "c"],
        )
        for part in reversed(request["each"][1:]):
            other.sendall(encode({"answers": part["id"], "result": part["what"]}))
        assert [(await future)["result"] for future in futures[1:]] == ["b", "c"]
        other.close()
        with pytest.raises(ConnectionResetError):
            await futures[0]
        assert await listening is None
        late = asyncio.get_running_loop().create_future()
        caller.call_each({"do": "that"}, {late: {}})
        with pytest.raises(ConnectionResetError):
            await late

    run(story)


def test_a_reply_to_a_cancelled_call_is_not_an_event() -> None:
    """The channel ignores the reply."""

    async def story(channel: Channel, other: socket.socket) -> None:
        caller = RpcConnection(channel)
        call = asyncio.create_task(caller.call(do="this"))
        await asyncio.sleep(0)
        await channel.sent()
        (request,) = FrameDecoder().feed(other.recv(1 << 16))
        call.cancel()
        other.sendall(encode({"answers": request["id"]}) + encode({"event": "next"}))
        assert await anext(caller.events()) == {"event": "next"}

    run(story)

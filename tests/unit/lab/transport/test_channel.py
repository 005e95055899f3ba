"""Connections between a lab's processes: what is said together goes out together, and what cannot be said is seen by who listens."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from kubenetlab.lab.transport.channel import Caller, Channel
from kubenetlab.lab.transport.frames import Frames, Message, encode

Story = Callable[[Channel, socket.socket], Awaitable[None]]


def tell(story: Story) -> None:
    """With one end as a channel and the other as it is."""

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


def test_what_is_said_in_one_turn_is_one_write() -> None:
    """In the order in which it was said."""

    async def story(channel: Channel, other: socket.socket) -> None:
        for number in range(50):
            channel.send({"number": number})
        await channel.sent()
        assert [message["number"] for message in Frames().feed(other.recv(1 << 16))] == list(
            range(50)
        )

    tell(story)


def test_more_than_a_socket_holds_is_sent_piece_by_piece() -> None:
    """And what is said meanwhile comes behind it."""

    async def story(channel: Channel, other: socket.socket) -> None:
        channel.send({"text": "x" * 3_000_000})
        await asyncio.sleep(0)
        channel.send({"text": "end"})
        other.setblocking(False)
        frames = Frames()
        heard: list[Message] = []
        while len(heard) < 2:
            heard += frames.feed(await asyncio.get_running_loop().sock_recv(other, 1 << 16))
        assert [len(message["text"]) for message in heard] == [3_000_000, 3]

    tell(story)


def test_calls_of_who_has_died_fail() -> None:
    """Whether they were said before or after it."""

    async def story(channel: Channel, other: socket.socket) -> None:
        caller = Caller(channel)

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

    tell(story)


def test_one_request_about_several_things_is_answered_for_each() -> None:
    """It is said once, with what is the same for all; who dies before all are answered leaves an error for the rest."""

    async def story(channel: Channel, other: socket.socket) -> None:
        caller = Caller(channel)
        listening = asyncio.create_task(anext(caller.events(), None))
        futures = [asyncio.get_running_loop().create_future() for _ in "abc"]
        caller.call_each(
            {"do": "this"},
            {future: {"what": name} for name, future in zip("abc", futures, strict=True)},
        )
        await channel.sent()
        (request,) = Frames().feed(other.recv(1 << 16))
        assert (request["do"], [one["what"] for one in request["each"]]) == (
            "this",
            ["a", "b", "c"],
        )
        for one in reversed(request["each"][1:]):
            other.sendall(encode({"answers": one["id"], "said": one["what"]}))
        assert [(await future)["said"] for future in futures[1:]] == ["b", "c"]
        other.close()
        with pytest.raises(ConnectionResetError):
            await futures[0]
        assert await listening is None
        late = asyncio.get_running_loop().create_future()
        caller.call_each({"do": "that"}, {late: {}})
        with pytest.raises(ConnectionResetError):
            await late

    tell(story)


def test_an_answer_that_nobody_waits_for_any_more_is_no_event() -> None:
    """Who asked has been cancelled meanwhile."""

    async def story(channel: Channel, other: socket.socket) -> None:
        caller = Caller(channel)
        asked = asyncio.create_task(caller.call(do="this"))
        await asyncio.sleep(0)
        await channel.sent()
        (request,) = Frames().feed(other.recv(1 << 16))
        asked.cancel()
        other.sendall(encode({"answers": request["id"]}) + encode({"event": "next"}))
        assert await anext(caller.events()) == {"event": "next"}

    tell(story)

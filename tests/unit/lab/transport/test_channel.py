"""Message connections between a lab's processes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from kubenetlab.lab.transport.channel import Channel, RpcConnection
from kubenetlab.lab.transport.frames import Frame, FrameDecoder, encode
from kubenetlab.lab.transport.protocol import Done, Message, RequestFailed, decoder_of
from tests.unit.lab.transport.protocol import (
    Double,
    Doubled,
    DoubleEach,
    Event,
    Sleep,
    Ticked,
    Tocked,
    TooLarge,
)

Story = Callable[[Channel, socket.socket], Awaitable[None]]
ANY = decoder_of(Double, DoubleEach, Sleep, Ticked, Tocked)


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


def connection(channel: Channel) -> RpcConnection[Event]:
    return RpcConnection(channel, "server", decoder_of(Event))


def received(data: bytes) -> list[tuple[int, Message]]:
    """Return the numbers and the messages of some frames."""
    return [(frame.number, ANY.decode(frame.body)) for frame in FrameDecoder().feed(data)]


def test_messages_of_one_loop_iteration_are_sent_in_one_write() -> None:
    """They keep their order."""

    async def story(channel: Channel, other: socket.socket) -> None:
        for number in range(50):
            channel.send(Ticked(number))
        await channel.sent()
        assert received(other.recv(1 << 16)) == [(0, Ticked(number)) for number in range(50)]

    run(story)


def test_a_message_larger_than_the_socket_buffer_is_sent() -> None:
    """A message that is sent meanwhile follows it."""

    async def story(channel: Channel, other: socket.socket) -> None:
        channel.send(Tocked("x" * 3_000_000))
        await asyncio.sleep(0)
        channel.send(Tocked("end"))
        other.setblocking(False)
        frames = FrameDecoder()
        messages: list[Tocked] = []
        while len(messages) < 2:
            data = await asyncio.get_running_loop().sock_recv(other, 1 << 16)
            messages += [ANY.decode(frame.body) for frame in frames.feed(data)]
        assert [len(message.text) for message in messages] == [3_000_000, 3]

    run(story)


def test_calls_fail_when_the_peer_has_died() -> None:
    """Calls that wait for a reply fail, and so do later ones."""

    async def story(channel: Channel, other: socket.socket) -> None:
        rpc = connection(channel)

        async def listen() -> list[Event]:
            return [event async for event in rpc.events()]

        listening = asyncio.create_task(listen())
        calls = [asyncio.create_task(rpc.call(Double(1)))]
        await asyncio.sleep(0)
        other.close()
        calls.append(asyncio.create_task(rpc.call(Double(2))))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionResetError, ConnectionResetError]
        assert await listening == []
        with pytest.raises(ConnectionResetError):
            await rpc.call(Double(3))

    run(story)


def test_replies_are_matched_to_requests() -> None:
    """They may arrive in any order, and each is decoded as a reply to its own request."""

    async def story(channel: Channel, other: socket.socket) -> None:
        rpc = connection(channel)
        listening = asyncio.create_task(anext(rpc.events(), None))
        calls = [asyncio.create_task(rpc.call(Double(number))) for number in (1, 2)]
        sleeping = asyncio.create_task(rpc.call(Sleep()))
        await asyncio.sleep(0)
        await channel.sent()
        requests = {message: number for number, message in received(other.recv(1 << 16))}
        other.sendall(encode(Done(), requests[Sleep()]))
        other.sendall(encode(TooLarge(1), requests[Double(2)]))
        other.sendall(encode(RequestFailed("no"), requests[Double(1)]))
        assert await sleeping == Done()
        assert await asyncio.gather(*calls) == [RequestFailed("no"), TooLarge(1)]
        listening.cancel()

    run(story)


def test_each_part_of_a_request_gets_a_reply() -> None:
    """The request is sent once. If the peer dies, the parts without a reply get an error."""

    async def story(channel: Channel, other: socket.socket) -> None:
        rpc = connection(channel)
        listening = asyncio.create_task(anext(rpc.events(), None))
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(3)]
        rpc.call_each(DoubleEach((1, 2, 3)), futures)
        call = asyncio.create_task(rpc.call(Double(9)))
        await asyncio.sleep(0)
        await channel.sent()
        (first, request), (following, _) = received(other.recv(1 << 16))
        assert request == DoubleEach((1, 2, 3))
        assert following == first + 3
        for index in (2, 1):
            other.sendall(encode(Doubled(index), first + index))
        assert [await future for future in futures[1:]] == [Doubled(1), Doubled(2)]
        other.close()
        for unanswered in (futures[0], call):
            with pytest.raises(ConnectionResetError):
                await unanswered
        assert await listening is None
        late = loop.create_future()
        rpc.call_each(DoubleEach((1,)), [late])
        with pytest.raises(ConnectionResetError):
            await late

    run(story)


def test_a_reply_to_a_cancelled_call_is_not_an_event() -> None:
    """The connection ignores the reply."""

    async def story(channel: Channel, other: socket.socket) -> None:
        rpc = connection(channel)
        call = asyncio.create_task(rpc.call(Double(1)))
        await asyncio.sleep(0)
        await channel.sent()
        ((number, _),) = received(other.recv(1 << 16))
        call.cancel()
        other.sendall(encode(Doubled(2), number) + encode(Ticked(1)))
        assert await anext(rpc.events()) == Ticked(1)

    run(story)


class WrongReply(Message, frozen=True, tag="Doubled"):
    outcome: int


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (WrongReply(2), "Doubled: Object missing required field `result`"),
        (Ticked(2), "Ticked: Invalid value 'Ticked' - at `$.type`"),
    ],
    ids=["missing field", "unknown type"],
)
def test_a_reply_that_cannot_be_decoded_is_an_error(
    reply: Message, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the process and the field, and later calls work."""

    async def story(channel: Channel, other: socket.socket) -> None:
        rpc = connection(channel)
        listening = asyncio.create_task(anext(rpc.events(), None))
        for sent, expected in (
            (
                reply,
                RequestFailed(f"the reply of the server to Double cannot be decoded: {reason}"),
            ),
            (Doubled(4), Doubled(4)),
        ):
            call = asyncio.create_task(rpc.call(Double(2)))
            await asyncio.sleep(0)
            await channel.sent()
            ((number, _),) = received(other.recv(1 << 16))
            other.sendall(encode(sent, number))
            assert await call == expected
        listening.cancel()

    run(story)
    assert reason in capsys.readouterr().err


def test_an_event_that_cannot_be_decoded_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """The events behind it arrive."""

    async def story(channel: Channel, other: socket.socket) -> None:
        rpc = connection(channel)
        broken = msgspec.msgpack.encode({"type": "Ticked", "count": "x"})
        other.sendall(len(broken).to_bytes(4) + bytes(8) + broken)
        other.sendall(encode(Tocked("next")))
        assert await anext(rpc.events()) == Tocked("next")

    run(story)
    output = capsys.readouterr().err
    assert "an event of the server cannot be decoded: Ticked" in output
    assert "Expected `int`, got `str` - at `$.count`" in output


def test_frames_are_decoded_from_any_parts_of_the_stream() -> None:
    """Also from single bytes."""
    data = encode(Ticked(1), 7) + encode(Tocked("x" * 300))
    decoder = FrameDecoder()
    frames = [frame for byte in data for frame in decoder.feed(bytes([byte]))]
    assert frames == list(FrameDecoder().feed(data))
    assert [type(frame) for frame in frames] == [Frame, Frame]
    assert received(data) == [(7, Ticked(1)), (0, Tocked("x" * 300))]

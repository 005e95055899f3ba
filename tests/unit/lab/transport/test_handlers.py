"""Dispatch of requests to handlers, and the errors of requests that fail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kubenetlab.errors import RequirementError
from kubenetlab.lab.transport.frames import FrameDecoder, encode
from kubenetlab.lab.transport.handlers import Handlers
from kubenetlab.lab.transport.protocol import Done, Message, RequestFailed, decoder_of
from kubenetlab.lab.transport.rpc import RpcClient
from kubenetlab.lab.transport.server import RpcServer
from tests.patience import patiently
from tests.unit.lab.transport.protocol import (
    Double,
    Doubled,
    DoubleEach,
    Event,
    Sleep,
    Ticked,
    TooLarge,
)


class OopsError(Exception):
    """An exception whose text is meant for users."""


def double(request: Double) -> Doubled | TooLarge:
    return Doubled(2 * request.number) if request.number < 100 else TooLarge(100)


def double_each(request: DoubleEach, number: int) -> Doubled:
    if number == 13:
        raise ValueError("bad luck")
    return Doubled(2 * number)


async def sleep(request: Sleep) -> Done:
    if request.text:
        raise OopsError(request.text)
    return Done()


def handlers() -> Handlers[[]]:
    return Handlers(
        "the server",
        Double.handled_by(double),
        DoubleEach.handled_by(double_each),
        Sleep.handled_by(sleep),
        described_errors=(OopsError,),
    )


def replies(table: Handlers[[]], request: Message | bytes) -> list[Message]:
    """Return the replies to a request, or to the body of a frame."""

    async def answer(reply: Any) -> Message:
        message: Message = await reply
        return message

    body = request if isinstance(request, bytes) else body_of(request)
    return [
        reply if isinstance(reply, Message) else asyncio.run(answer(reply))
        for reply in table.replies(body)
    ]


def body_of(message: Message) -> bytes:
    (frame,) = FrameDecoder().feed(encode(message))
    return frame.body


def test_a_request_is_answered_by_the_handler_of_its_type() -> None:
    """Each part of a batch gets its reply; a handler may be a coroutine."""
    assert replies(handlers(), Double(4)) == [Doubled(8)]
    assert replies(handlers(), Double(400)) == [TooLarge(100)]
    assert replies(handlers(), DoubleEach((1, 2))) == [Doubled(2), Doubled(4)]
    assert replies(handlers(), Sleep()) == [Done()]


def test_a_part_that_fails_does_not_affect_the_others() -> None:
    """It gets an error of its own."""
    assert replies(handlers(), DoubleEach((1, 13, 2))) == [
        Doubled(2),
        RequestFailed("ValueError: bad luck"),
        Doubled(4),
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"type": "Halve", "number": 4}, "Halve: Invalid value 'Halve' - at `$.type`"),
        ({"type": "Double"}, "Double: Object missing required field `number`"),
        (
            {"type": "DoubleEach", "numbers": [1, "2"]},
            "DoubleEach: Expected `int`, got `str` - at `$.numbers[1]`",
        ),
        ({"number": 4}, "message without type: Object missing required field `type`"),
        (["Double"], "message without type: Expected `object`, got `array`"),
        (b"\x81", "message: Input data was truncated"),
        (b"\x81\xa4type\xa1\xff", "message: "),
    ],
    ids=["unknown type", "missing field", "wrong type", "no type", "array", "cut", "not UTF-8"],
)
def test_a_request_that_cannot_be_decoded_is_answered(
    body: object, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the process, the type of message and the field; it is logged as well."""
    data = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    (reply,) = replies(handlers(), data)
    assert isinstance(reply, RequestFailed)
    assert reply.error.startswith(f"the server cannot decode a request: {reason}".rstrip())
    assert reply.error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RequirementError("no nft"), "no nft"),
        (ProcessLookupError("the container has exited"), "the container has exited"),
        (OopsError("for users"), "for users"),
        (OSError(2, "No such file"), "FileNotFoundError: [Errno 2] No such file"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_the_exception_of_a_handler_is_the_reply(error: Exception, text: str) -> None:
    """Exceptions that are not made for users are named."""

    def fail(request: Sleep) -> Done:
        raise error

    async def fail_later(request: Sleep) -> Done:
        raise error

    async def collect(table: Handlers[[]]) -> list[Message]:
        found = list(table.replies(body_of(Sleep())))
        return [reply if isinstance(reply, Message) else await reply for reply in found]

    for entry in (Sleep.handled_by(fail), Sleep.handled_by(fail_later)):
        table = Handlers("the server", entry, described_errors=(OopsError,))
        assert asyncio.run(collect(table)) == [RequestFailed(text)]


def test_a_bug_of_a_handler_is_not_hidden() -> None:
    """The process ends with a traceback, and init restarts it."""

    def fail(request: Sleep) -> Done:
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        replies(Handlers("the server", Sleep.handled_by(fail)), Sleep())


def served(
    directory: Path, scenario: Callable[[RpcClient[Event], list[Event]], Coroutine[Any, Any, None]]
) -> None:
    """Run a scenario with a client that is connected to a server."""

    async def both() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        listener.bind(str(directory / "server.sock"))
        listener.listen()
        server = RpcServer[Event](listener, handlers(), lambda: [Ticked(0)])
        serving = asyncio.create_task(server.run())
        events: list[Event] = []
        client = RpcClient(
            "server",
            str(directory / "server.sock"),
            decoder_of(Event),
            events.append,
            lambda: server.notify(Ticked(1)),
        )
        try:
            async with asyncio.timeout(patiently(10)):
                await scenario(client, events)
        finally:
            client._task.cancel()
            serving.cancel()
            await asyncio.gather(client._task, serving, return_exceptions=True)
            if client._connection is not None:
                client._connection.close()
            listener.close()

    asyncio.run(both())


def test_a_server_greets_its_client_and_answers_it(tmp_path: Path) -> None:
    """The greeting arrives before the first reply; a long request does not delay others."""

    async def scenario(client: RpcClient[Event], events: list[Event]) -> None:
        sleeping = asyncio.create_task(client.call(Sleep("late")))
        assert await client.call(Double(1)) == Doubled(2)
        assert events == [Ticked(0)]
        assert await sleeping == RequestFailed("late")
        futures = [asyncio.get_running_loop().create_future() for _ in range(3)]
        await client.call_each(DoubleEach((1, 13, 3)), futures)
        assert [await future for future in futures] == [
            Doubled(2),
            RequestFailed("ValueError: bad luck"),
            Doubled(6),
        ]

    served(tmp_path, scenario)

"""Dispatch table of a server: the handler of each type of request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Generic

from kubenetlab.errors import KubenetlabError
from kubenetlab.lab.log import log
from kubenetlab.lab.transport.protocol import (
    AnyRequest,
    BatchRequest,
    Handler,
    Message,
    MessageError,
    P,
    RequestFailed,
    decode,
    decoder_of,
)


class Handlers(Generic[P]):
    """Handlers of one server, by type of request.

    P: arguments of the handlers beside the request.
    """

    def __init__(
        self,
        process: str,
        *handlers: Handler[P],
        described_errors: tuple[type[Exception], ...] = (),
    ) -> None:
        """Create a table.

        process:          name of this process, for messages.
        handlers:         results of `Request.handled_by`.
        described_errors: exceptions of handlers whose text needs no further explanation.
        """
        self._process = process
        self._handle = dict(handlers)
        self._described_errors: tuple[type[Exception], ...] = (
            KubenetlabError,
            ProcessLookupError,
            *described_errors,
        )
        self._decoder = decoder_of(*self._handle)

    @property
    def requests(self) -> set[type[AnyRequest]]:
        """Types of requests that have a handler."""
        return set(self._handle)

    def replies(
        self, body: bytes, *args: P.args, **kwargs: P.kwargs
    ) -> Iterator[Message | Awaitable[Message]]:
        """Carry out a request and yield its replies, or awaitables of those that take long.

        A request that cannot be decoded, or whose handler raises an exception that is not a bug,
        is answered with `RequestFailed`.
        """
        try:
            request = decode(body, self._decoder)
        except MessageError as error:
            log(f"{self._process} cannot decode a request: {error}")
            yield RequestFailed(f"{self._process} cannot decode a request: {error}")
            return
        handle = self._handle[type(request)]
        if isinstance(request, BatchRequest):
            for part in request.parts:
                yield self._reply(partial(handle, request, part, *args, **kwargs))
        else:
            yield self._reply(partial(handle, request, *args, **kwargs))

    def _reply(
        self, handle: Callable[[], Message | Awaitable[Message]]
    ) -> Message | Awaitable[Message]:
        try:
            reply = handle()
        except Exception as error:
            return self._failed(error)
        return reply if isinstance(reply, Message) else self._wait(reply)

    async def _wait(self, reply: Awaitable[Message]) -> Message:
        try:
            return await reply
        except Exception as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> RequestFailed:
        """Return the reply for an exception; raise it again if it is a bug."""
        if isinstance(error, self._described_errors):
            return RequestFailed(str(error))
        if isinstance(error, OSError | ValueError | KeyError):
            return RequestFailed(f"{type(error).__name__}: {error}")
        raise error

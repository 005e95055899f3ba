"""Base types of the messages between a lab's own processes.

A protocol is a module in lab/messages/: the requests, the reply to each, and the events that the
server sends by itself. A request states the type of its reply, so that mypy checks callers
(`RpcClient.call`) as well as handlers (`Request.handled_by`). All processes of a lab are forks of
one process, so they agree on the types.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import (
    Any,
    Concatenate,
    Generic,
    NamedTuple,
    ParamSpec,
    Self,
    TypeVar,
    Union,
    get_args,
)

import msgspec
from msgspec import Struct

PartT = TypeVar("PartT", covariant=True)
ReplyT = TypeVar("ReplyT", bound="Message", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")


class Message(Struct, frozen=True, tag=True):
    """Base of all messages. The encoded field `type` is the name of the class."""


class Done(Message, frozen=True):
    """Reply to a request that was carried out and has no result."""


class RequestFailed(Message, frozen=True):
    """Reply to any request that was not carried out."""

    error: str


class Request(Message, Generic[ReplyT], frozen=True):
    """Base of requests that are answered by one `ReplyT`, or by `RequestFailed`."""

    @classmethod
    def handled_by(
        cls,
        handle: Callable[Concatenate[Self, P], ReplyT]
        | Callable[Concatenate[Self, P], Awaitable[ReplyT]],
    ) -> Handler[P]:
        """Return the entry of this type in the table of a server's handlers.

        handle: returns the reply, or an awaitable of the reply if it takes long.
        """
        return Handler(cls, handle)


class BatchRequest(Message, Generic[PartT, ReplyT], frozen=True):
    """Base of requests with several parts, each of which is answered as soon as it is done.

    The reply to the first part has the number of the request, that to the second part the next
    number, and so on.
    """

    @property
    def parts(self) -> Sequence[PartT]:
        """The parts, in the order in which they are handled."""
        raise NotImplementedError

    @classmethod
    def handled_by(cls, handle: Callable[[Self, PartT], ReplyT]) -> Handler[[]]:
        """Return the entry of this type in the table of a server's handlers.

        handle: handles one part and returns its reply.
        """
        return Handler(cls, handle)


AnyRequest = Request[Message] | BatchRequest[object, Message]


class Handler(NamedTuple, Generic[P]):
    """Entry in the table of a server's handlers.

    P: arguments of the handler beside the request.
    """

    request: type[AnyRequest]
    handle: Callable[..., Message | Awaitable[Message]]


class MessageError(ValueError):
    """A message that cannot be decoded; the text names its type and the field."""


def decode(body: bytes, decoder: msgspec.msgpack.Decoder[T]) -> T:
    """Decode a message. Raises MessageError."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MessageError(f"{_type_name(body)}: {error}") from None


@cache
def decoder_of(*types: object) -> msgspec.msgpack.Decoder[Any]:
    """Return a decoder of messages of several types."""
    return msgspec.msgpack.Decoder(Union[types])  # noqa: UP007


@cache
def reply_decoder(request: type[AnyRequest]) -> msgspec.msgpack.Decoder[Any]:
    """Return the decoder of the replies to a type of request."""
    (base,) = (
        base
        for base in getattr(request, "__orig_bases__", ())
        if getattr(base, "__origin__", None) in (Request, BatchRequest)
    )
    return decoder_of(get_args(base)[-1], RequestFailed)


def _type_name(body: bytes) -> str:
    """Return the type that an undecodable message claims to have."""
    try:
        message = msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "message"
    name = message.get("type") if isinstance(message, dict) else None
    return name if isinstance(name, str) else "message without type"

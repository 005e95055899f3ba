"""Messages of all protocols: they survive encoding, and a wrong one is an error with its field."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubenetlab.lab.messages import app_worker, creation, init, node_agent
from kubenetlab.lab.transport.frames import FrameDecoder, encode
from kubenetlab.lab.transport.protocol import Message, MessageError, decode, decoder_of
from tests.examples import examples

PROTOCOLS: dict[str, Any] = {
    "creation": creation.CreationMessage,
    "requests to init": init.InitRequest,
    "events of init": init.InitEvent,
    "requests to node agents": node_agent.NodeAgentRequest,
    "events of node agents": node_agent.NodeAgentEvent,
    "requests to app workers": app_worker.AppWorkerRequest,
    "events of app workers": app_worker.AppWorkerEvent,
}
"""Union of the messages that travel in one direction."""
MESSAGES = [
    pytest.param(decoder_of(union), type_, id=f"{name} {type_.__name__}")
    for name, union in PROTOCOLS.items()
    for type_ in get_args(union) or (union,)
]
TYPES = pytest.mark.parametrize(("decoder", "type_"), MESSAGES)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63 - 1),
    str: st.text(),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    NoneType: st.none(),
    object: JSON,
    Any: JSON,
}


def values_of(type_: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a type that messages contain."""
    if type_ in SCALARS:
        return SCALARS[type_]
    arguments = get_args(type_)
    match get_origin(type_):
        case None:  # a Struct, or a NamedTuple
            return st.builds(
                type_, **{name: values_of(hint) for name, hint in get_type_hints(type_).items()}
            )
        case origin if origin is Literal:
            return st.sampled_from(arguments)
        case origin if origin in (Union, UnionType):
            return st.one_of([values_of(argument) for argument in arguments])
        case origin if origin is tuple and arguments[-1] is not Ellipsis:
            return st.tuples(*map(values_of, arguments))
        case origin if origin is tuple:
            return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
        case origin if origin is list:
            return st.lists(values_of(arguments[0]), max_size=3)
        case _:
            return st.dictionaries(*map(values_of, arguments), max_size=3)


@TYPES
@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_message_is_decoded_as_it_was_encoded(
    data: st.DataObject, decoder: msgspec.msgpack.Decoder[Any], type_: type[Message]
) -> None:
    """Also when it arrives in two parts, and other messages follow it."""
    message = data.draw(values_of(type_))
    number = data.draw(st.integers(0, 2**64 - 1))
    frames = encode(message, number) * 2
    middle = data.draw(st.integers(0, len(frames)))
    frame_decoder = FrameDecoder()
    received = [
        frame for part in (frames[:middle], frames[middle:]) for frame in frame_decoder.feed(part)
    ]
    assert [frame.number for frame in received] == [number] * 2
    assert [decode(frame.body, decoder) for frame in received] == [message] * 2


@TYPES
def test_a_message_without_a_field_is_an_error(
    decoder: msgspec.msgpack.Decoder[Any], type_: type[Message]
) -> None:
    """The error names the message and the field."""
    required = [field.name for field in msgspec.structs.fields(type_) if field.required]
    body = msgspec.msgpack.encode({"type": type_.__name__})
    if not required:
        assert decode(body, decoder) == type_()
        return
    with pytest.raises(MessageError) as error:
        decode(body, decoder)
    expected = f"{type_.__name__}: Object missing required field `{required[0]}`"
    assert str(error.value) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unknown_message_is_an_error(protocol: str) -> None:
    """The error names its type."""
    with pytest.raises(MessageError, match=r"^Surprise: Invalid value 'Surprise'"):
        decode(msgspec.msgpack.encode({"type": "Surprise"}), decoder_of(PROTOCOLS[protocol]))

"""tc messages: requests and replies about programs of links."""

from __future__ import annotations

import struct

import pytest

from kubenetlab.hoststate.netlink import tc
from kubenetlab.hoststate.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    as_number,
    as_string,
    attributes,
    message,
    messages,
    nested,
    number,
    string,
)

TCMSG = struct.Struct("=Bxxxi3I")
ALL_PROTOCOLS = struct.unpack("=H", struct.pack("!H", 3))[0]
PLACE = 10 << 16 | ALL_PROTOCOLS
"""Priority and protocol of the lab's filters."""


def test_a_qdisc_is_added_unless_it_exists() -> None:
    ((type_, flags, _, body),) = messages(tc.add_qdisc(7))
    assert (type_, flags) == (tc.RTM_NEWQDISC, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL)
    assert TCMSG.unpack_from(body) == (0, 7, 0xFFFF0000, 0xFFFFFFF1, 0)
    assert as_string(attributes(body[TCMSG.size :])[1]) == "clsact"


@pytest.mark.parametrize(("side", "parent"), [("ingress", 0xFFFFFFF2), ("egress", 0xFFFFFFF3)])
def test_a_program_is_attached_in_place_of_the_former_one(side: tc.Side, parent: int) -> None:
    ((type_, flags, _, body),) = messages(tc.set_filter(7, side, 33, "coming"))
    assert (type_, flags) == (tc.RTM_NEWTFILTER, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE)
    assert TCMSG.unpack_from(body) == (0, 7, 1, parent, PLACE)
    attrs = attributes(body[TCMSG.size :])
    options = attributes(attrs[2])
    assert (as_string(attrs[1]), as_string(options[7])) == ("bpf", "coming")
    assert (as_number(options[6]), as_number(options[8])) == (33, 1)


def test_a_program_is_detached_from_the_same_place() -> None:
    ((_, _, _, attached),) = messages(tc.set_filter(7, "egress", 33, "going"))
    ((type_, flags, _, body),) = messages(tc.delete_filter(7, "egress"))
    assert (type_, flags) == (tc.RTM_DELTFILTER, NLM_F_REQUEST)
    assert body[: TCMSG.size] == attached[: TCMSG.size]


def filter_message(place: int, kind: str, *options: bytes) -> memoryview:
    body = TCMSG.pack(0, 7, 1, 0xFFFFFFF2, place) + string(1, kind) + nested(2, *options)
    ((_, _, _, decoded),) = messages(message(tc.RTM_NEWTFILTER, 0, body))
    return decoded


NAMED = (string(7, "coming"), number(8, 1))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (filter_message(PLACE, "bpf", *NAMED, number(11, 4711)), tc.Filter("coming", 4711, 10)),
        (filter_message(PLACE, "bpf", *NAMED), None),
        (filter_message(PLACE, "u32", *NAMED, number(11, 4711)), None),
        (
            filter_message(11 << 16 | ALL_PROTOCOLS, "bpf", *NAMED, number(11, 4711)),
            tc.Filter("coming", 4711, 11),
        ),
    ],
    ids=["program", "without a program", "another kind", "another priority"],
)
def test_only_programs_are_listed_with_their_priorities(
    body: memoryview, expected: tc.Filter | None
) -> None:
    assert tc.decode_filter(body) == expected

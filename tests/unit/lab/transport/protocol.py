"""A small protocol for the tests of the transport."""

from __future__ import annotations

from collections.abc import Sequence

from kubenetlab.lab.transport.protocol import BatchRequest, Done, Message, Request


class Doubled(Message, frozen=True):
    result: int


class TooLarge(Message, frozen=True):
    limit: int


class Double(Request[Doubled | TooLarge], frozen=True):
    number: int


class Sleep(Request[Done], frozen=True):
    text: str = ""


class DoubleEach(BatchRequest[int, Doubled], frozen=True):
    numbers: tuple[int, ...]

    @property
    def parts(self) -> Sequence[int]:
        return self.numbers


class Ticked(Message, frozen=True):
    count: int


class Tocked(Message, frozen=True):
    text: str


Event = Ticked | Tocked

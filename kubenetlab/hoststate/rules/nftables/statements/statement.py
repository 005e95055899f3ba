"""Base class of statements."""

from __future__ import annotations

from abc import abstractmethod

from msgspec import Struct

from kubenetlab.hoststate.rules.nftables.encoding import RuleContext


class Statement(Struct, frozen=True, gc=False, array_like=True, tag_field="statement", tag=True):
    """One statement of a rule.

    Fields are strings, numbers and tuples, so that a value cannot be part of a reference cycle:
    the garbage collector skips thousands of statements.
    """

    @abstractmethod
    def __str__(self) -> str:
        """Return the statement in nft syntax."""

    @abstractmethod
    def encode(self, context: RuleContext) -> bytes:
        """Return the expressions of the statement.

        Raises ValueError, LookupError or struct.error for values that cannot be encoded; the rule
        is then left to libnftables, whose errors name the wrong word.
        """

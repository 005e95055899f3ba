"""Statements of rules: typed values, one module for each kind of expression.

A statement renders itself in nft syntax (`str`) and encodes itself as expressions for the kernel
(`encode`). To add a statement, write its class in a module of this package and add it to
`AnyStatement`. Expressions load values into registers, compare them and act, one after the other.
Source: nft(8) and libnftables 1.0.6 for the syntax and for the expressions of each statement.
"""

from kubenetlab.hoststate.rules.nftables.statements.actions import (
    Counter,
    ForbidFragments,
    Log,
    SetMark,
    UpdateSet,
)
from kubenetlab.hoststate.rules.nftables.statements.maps import MapVerdict, RandomVerdict
from kubenetlab.hoststate.rules.nftables.statements.matches import (
    InSet,
    Masked,
    Match,
    MatchPair,
    OneOf,
)
from kubenetlab.hoststate.rules.nftables.statements.nat import (
    Dnat,
    DnatFromMap,
    DnatInTurn,
    Masquerade,
)
from kubenetlab.hoststate.rules.nftables.statements.verdicts import (
    Reject,
    Verdict,
    accept,
    drop,
    goto,
    jump,
    return_,
)

AnyStatement = (
    Match
    | MatchPair
    | Masked
    | InSet
    | OneOf
    | MapVerdict
    | RandomVerdict
    | Verdict
    | Reject
    | Dnat
    | DnatFromMap
    | DnatInTurn
    | Masquerade
    | SetMark
    | UpdateSet
    | Counter
    | ForbidFragments
    | Log
)
"""Every statement; a transaction is decoded to these types."""

__all__ = (
    "AnyStatement",
    "Counter",
    "Dnat",
    "DnatFromMap",
    "DnatInTurn",
    "ForbidFragments",
    "InSet",
    "Log",
    "MapVerdict",
    "Masked",
    "Masquerade",
    "Match",
    "MatchPair",
    "OneOf",
    "RandomVerdict",
    "Reject",
    "SetMark",
    "UpdateSet",
    "Verdict",
    "accept",
    "drop",
    "goto",
    "jump",
    "return_",
)

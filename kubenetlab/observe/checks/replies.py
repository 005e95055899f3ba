"""Verdicts of rows that depend on the content of a reply: HTTP statuses and client addresses."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING

from kubenetlab.api.values.ip import is_address
from kubenetlab.observe.checks.truth_table import EXPECTED_OUTCOMES, TruthTable
from kubenetlab.observe.checks.verdicts import RowProbe, RowVerdict, state_of, verdict_of
from kubenetlab.observe.probe_sockets import Outcome, outcome_of
from kubenetlab.observe.request import HTTP_ERROR
from kubenetlab.observe.targets.locations import Location

if TYPE_CHECKING:
    from kubenetlab.programs.support.http import Network


async def check_reply(
    table: TruthTable,
    probe: RowProbe,
    network_of: Callable[[Location], Network],
    deadline_s: float,
) -> RowVerdict:
    """Check the HTTP status of a reply, or the client address that the server saw."""
    row, network = probe.row, network_of(probe.source)
    start = time.monotonic()
    try:
        if row.protocol in ("UDP", "SCTP"):
            reply = await network.exchange(
                probe.address, probe.port, b"clientip", deadline_s, row.protocol
            )
            client = reply.decode(errors="replace")
        else:
            answer = await network.get(
                probe.address, probe.port, probe.path or "/clientip", deadline_s
            )
            if probe.path and (not row.source or answer.status >= HTTP_ERROR):
                return _http_verdict(table, probe, answer.status, _ms_since(start))
            headers = {name.lower(): value for name, value in answer.headers.items()}
            client = headers.get("x-kubenetlab-client", answer.body.decode(errors="replace"))
    except OSError as error:
        return _failed_reply(table, probe, error)
    address = (client.strip().rpartition(":")[0] or client.strip()).strip("[]")
    holds = is_address(address) and ip_address(address) == ip_address(row.source)
    return verdict_of(table, probe, f"answer, saw {address}", state_of(holds), _ms_since(start))


def _failed_reply(table: TruthTable, probe: RowProbe, error: OSError) -> RowVerdict:
    """Return the verdict for a failed exchange, which a GET without `source` may expect."""
    if error.errno == errno.EPROTONOSUPPORT:  # this kernel has no SCTP
        return verdict_of(table, probe, "not testable", "untested")
    if probe.row.source or not probe.path:
        return verdict_of(
            table, probe, os.strerror(error.errno) if error.errno else str(error), "fails"
        )
    outcome: Outcome = (
        "silence"
        if isinstance(error, TimeoutError)
        else outcome_of(error.errno or errno.EHOSTUNREACH)
    )
    return verdict_of(
        table, probe, outcome, state_of(outcome in EXPECTED_OUTCOMES[probe.row.expected])
    )


def _http_verdict(table: TruthTable, probe: RowProbe, status: int, ms: float) -> RowVerdict:
    """Return the verdict for an HTTP reply: an error status is neither allowed nor denied."""
    holds = probe.row.expected == "allow" and status < HTTP_ERROR
    return verdict_of(table, probe, f"answer, HTTP {status}", state_of(holds), ms)


def _ms_since(start: float) -> float:
    return (time.monotonic() - start) * 1000

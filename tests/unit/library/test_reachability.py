"""Results of probes as conditions: their truth, and the line that a failed assertion shows."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab import HttpAnswer, HttpResult, LabError, PingResult, Reachability

ANSWER = PingResult(
    ok=True,
    source="default/a",
    destination="svc:default/b:80/TCP",
    address="10.96.0.7",
    port=80,
    protocol="TCP",
    outcome="answer",
    expected="answer",
    ms=0.51,
    body="",
)
SILENCE = structs.replace(ANSWER, outcome="silence", ok=False)


def test_a_result_is_true_if_the_destination_answered() -> None:
    assert Reachability(ANSWER)
    for outcome in ("silence", "refused", "unreachable", "unresolved"):
        assert not Reachability(structs.replace(ANSWER, outcome=outcome))


def test_a_result_explains_itself_in_one_line() -> None:
    """An assertion of pytest shows it."""
    assert repr(Reachability(ANSWER)) == (
        "default/a → svc:default/b:80/TCP (10.96.0.7:80): "
        "answered in 0.5 ms, Kubernetes promises an answer"
    )
    reason = "NetworkPolicy default/deny isolates default/b for ingress"
    denied = Reachability(structs.replace(SILENCE, expected="nothing", policies=(reason,)))
    assert repr(denied) == (
        "default/a → svc:default/b:80/TCP (10.96.0.7:80): "
        f"no answer, Kubernetes promises no answer; {reason}"
    )
    assert denied.reasons == (reason,)
    ping = structs.replace(
        ANSWER, destination="default/b", address="10.244.0.3", port=0, protocol="ICMP"
    )
    assert repr(Reachability(ping)).startswith("default/a → default/b ICMP (10.244.0.3): answered")
    unresolved = structs.replace(SILENCE, outcome="unresolved", body="no such name", address="")
    assert repr(Reachability(unresolved)).endswith("an answer; no such name")
    assert Reachability(unresolved).reasons == ("no such name",)


@pytest.mark.parametrize("ping", [ANSWER, SILENCE], ids=["reached", "not reached"])
@pytest.mark.parametrize("field", ["unenforced", "duplicates"])
def test_a_result_that_proves_nothing_is_neither_true_nor_false(
    ping: PingResult, field: str
) -> None:
    """An object that the lab does not enforce could change it."""
    result = Reachability(structs.replace(ping, **{field: ("NetworkPolicy deny",)}))
    with pytest.raises(LabError, match=r"proves nothing: default/a → (.|\n)*NetworkPolicy deny"):
        bool(result)
    assert result.is_reached == ping.is_answered


@pytest.mark.parametrize(("status", "is_true"), [(200, True), (304, True), (404, False)])
def test_an_http_result_depends_on_the_status(status: int, is_true: bool) -> None:
    result = HttpResult(structs.replace(ANSWER, http=HttpAnswer(status, "default/b", "text")))
    assert bool(result) is is_true
    assert (result.status, result.server, result.body) == (status, "default/b", "text")
    assert f": HTTP {status} in 0.5 ms" in repr(result)


def test_an_http_result_without_an_answer_is_false() -> None:
    result = HttpResult(SILENCE)
    assert not result
    assert (result.status, result.server, result.body) == (0, "", "")
    assert ": no answer" in repr(result)

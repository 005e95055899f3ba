"""Results of the library as conditions of `assert`."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import structs

from kubenetlab import CheckResult, PingMatrix, PingSeries, ReportedDiagnostic, RowResult
from tests.unit.library.test_reachability import ANSWER

ROW = RowResult(
    table="shop",
    name="pod/a → pod/b:80/TCP",
    source="default/a",
    target="default/b:80/TCP",
    expected="deny",
    outcome="answer",
    state="fails",
    place="expect.yaml:3",
    ms=0.5,
    unenforced=(),
    policies=("NetworkPolicy default/b rule 0 allows ingress",),
)
UNENFORCED = ReportedDiagnostic(
    code="not-enforced",
    kind="NetworkPolicy",
    namespace="default",
    name="b",
    path="",
    message="not enforced by this lab",
    hints=(),
    file="",
    line=0,
    accepted=False,
    affects=(),
)


def test_a_check_is_true_if_its_expectations_hold() -> None:
    held = structs.replace(ROW, state="holds")
    assert CheckResult(ok=True, rows=(held,), diagnostics=())
    assert not CheckResult(ok=False, rows=(ROW,), diagnostics=())
    assert not CheckResult(ok=False, rows=(held,), diagnostics=(UNENFORCED,))
    assert not PingMatrix(ok=False, cells=(), diagnostics=(UNENFORCED,))


def test_a_check_explains_itself() -> None:
    """Assertions of pytest show the first failures, and the objects that are not enforced."""
    assert repr(CheckResult(ok=True, rows=(ROW,) * 5, diagnostics=(UNENFORCED,))) == (
        "5 of 5 checks fail; "
        + "expect.yaml:3: default/a → default/b:80/TCP: expected deny, found answer "
        "(NetworkPolicy default/b rule 0 allows ingress); "
        * 3
        + "NetworkPolicy b: not enforced by this lab; and 2 more"
    )


def test_a_probe_is_neither_true_nor_false() -> None:
    """It is as promised, or answered: an assertion has to say which."""
    with pytest.raises(TypeError, match=r"\.ok \(as promised\) or \.is_answered"):
        bool(ANSWER)
    series = msgspec.convert(
        {
            **dict.fromkeys(("from", "to", "address", "protocol", "explanation"), ""),
            "ok": False,
            "port": 80,
            "count": 1,
            "answered": 0,
            "expected": None,
            "failed": {},
            "servers": (),
            "sources": (),
        },
        PingSeries,
    )
    with pytest.raises(TypeError, match=r"\.answered"):
        bool(series)

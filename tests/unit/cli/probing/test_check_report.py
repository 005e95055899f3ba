"""Summary of a check."""

from __future__ import annotations

import pytest

from kubenetlab.cli.probing.check_report import Result, show
from kubenetlab.observe.checks.verdicts import RowVerdict, State


def verdict(expected: str, state: State) -> RowVerdict:
    return RowVerdict("shop", "default/a", "svc:default/web:80/TCP", expected, "answer", state, "")


def test_undecided_results_are_a_part_of_those_that_hold(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A result that cannot be tested is not one of them, whatever is expected."""
    verdicts = (verdict("allow", "holds"), verdict("any", "holds"), verdict("any", "untested"))
    show(Result("demo", verdicts, (), 1.5))
    assert capsys.readouterr().out.splitlines()[-1] == (
        "3 checks in 1.50 s: 2 hold, 1 of them whatever the outcome, 1 not testable"
    )

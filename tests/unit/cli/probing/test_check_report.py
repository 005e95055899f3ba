"""Summary of a check."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.cli.probing.check_report import Result, next_command, show
from kubenetlab.observe.checks.verdicts import ANY_OUTCOME, NOT_DENIED, RowVerdict, State


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


def test_wide_output_names_results_that_prove_little(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise, one line names the first rows whose denial is not the work of a policy."""
    verdicts = [
        verdict("allow", "holds"),
        structs.replace(verdict("any", "holds"), note=ANY_OUTCOME),
        *(
            structs.replace(verdict("deny", "holds"), source=name, note=NOT_DENIED)
            for name in ("default/b", "default/c", "default/d", "default/e")
        ),
    ]
    result = Result("demo", verdicts, (), 1.5)
    show(result)
    target = "→ svc:default/web:80/TCP"
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == (
        "note: 4 rows hold, but no network policy denies the connection: "
        f"default/b {target} (answer), default/c {target} (answer), default/d {target} (answer) "
        "and 1 more; -o wide names all"
    )
    show(result, is_wide=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"· default/a {target}: expected any, found answer",
        "    holds whatever the outcome",
    ]
    assert lines.count("    no network policy denies this connection") == 4


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("a/web:80/TCP IPv6", "a/web --tcp 80 -6"),
        ("a/web IPv4", "a/web -4"),
        ("http://web/x IPv6", "http://web/x -6"),
        ("a/web:53/UDP", "a/web --udp 53"),
    ],
)
def test_a_failed_row_is_repeated_in_its_family(target: str, words: str) -> None:
    failed = structs.replace(verdict("allow", "fails"), target=target)
    result = Result("demo", [failed], (), 1.5)
    assert next_command(result) == f"kubenetlab ping default/a {words}"

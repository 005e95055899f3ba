"""The next command after `plan` and `compare`."""

from __future__ import annotations

import pytest

from kubenetlab.cli.labs.compare import show
from kubenetlab.cli.labs.plan import _up_command
from kubenetlab.observe.comparison.results import ComparedMode


@pytest.mark.parametrize(
    ("files", "options", "command"),
    [
        ((), {"--cni": None}, "kubenetlab up"),
        (("a.yaml", "my lab"), {}, "kubenetlab up -f a.yaml -f 'my lab'"),
        (
            ("a.yaml",),
            {"--cni": "{type: weave}", "--nodes": 4},
            "kubenetlab up -f a.yaml --cni '{type: weave}' --nodes 4",
        ),
    ],
)
def test_up_after_a_plan_has_its_options(
    files: tuple[str, ...], options: dict[str, object], command: str
) -> None:
    """Without them, `up` would make another lab than the one that was planned."""
    assert _up_command(files, options) == command


@pytest.mark.parametrize("mode", ["flannel", "flannel,port=4000", "{type: flannel, port: 4000}"])
def test_the_manual_page_after_a_comparison_exists(
    capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    show([ComparedMode(mode, error="no")], is_wide=False)
    assert capsys.readouterr().err == "next: kubenetlab explain flannel\n"

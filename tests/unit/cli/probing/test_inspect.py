"""The head of `inspect` without a target."""

from __future__ import annotations

from typing import Any, cast

import pytest

from kubenetlab.cli.probing.inspect import _show
from kubenetlab.observe.inspection import Inspection


@pytest.mark.parametrize(
    ("layout", "line"),
    [("onlink", "pods onlink, neighbours dynamic"), ("", "neighbours dynamic")],
)
def test_cni_modes_without_a_bridge_have_no_layout(
    capsys: pytest.CaptureFixture[str], layout: str, line: str
) -> None:
    """The line then has the neighbours alone."""
    inspected: dict[str, Any] = {
        "lab": "x",
        "init_pid": 1,
        "agent_pid": 2,
        "run_directory": "/r/x",
        "pod_layout": layout,
        "neighbors": "dynamic",
        "nodes": [],
        "pods": [],
        "external": [],
        "networks": [],
    }
    _show(cast(Inspection, inspected))
    assert capsys.readouterr().out.splitlines()[1] == line

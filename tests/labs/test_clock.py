"""Setting the machine's clock moves no deadline of a lab; displayed times follow the clock."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.api.meta import seconds
from tests.clusters import pod
from tests.labs.lab import Lab, run_module, wait_for
from tests.patience import patiently

HOUR_S = 3600.0
BACK_OFF_S = 10.0
"""Delay before the second start of a container, in seconds.

Source: pkg/kubelet/kubelet.go backOffPeriod.
"""


@pytest.mark.parametrize("clock_offset_s", [-HOUR_S, HOUR_S], ids=["back", "forward"])
def test_setting_the_clock_moves_no_deadline(
    lab: Lab, tmp_path: Path, clock_offset_s: float
) -> None:
    """An ended container restarts after its back-off.

    It restarts neither an hour later nor at once.
    """
    offset = tmp_path / "offset"
    offset.write_text("0")
    run_module(
        "tests.labs.shifted_clock",
        str(offset),
        "up",
        "--lab",
        lab.name,
        "-f",
        "-",
        stdin=pod("web"),
    )
    web = lab.pod("web")
    exit_request = ("curl", "-s", f"http://{web['addresses'][0]}:8080/exit?code=1&timeout=0s")

    def restarts() -> int:
        return int(status_of(lab)["restartCount"])

    lab.inside(web, *exit_request, status=0)
    wait_for(
        lambda: restarts() == 1 and lab.pod("web")["ready"],
        "the first restart, which comes at once",
    )
    lab.inside(web, *exit_request, status=0)
    ended = time.monotonic()
    wait_for(
        lambda: status_of(lab)["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff",
        "the back-off",
    )
    offset.write_text(str(clock_offset_s))
    lab.kill("agent")
    wait_for(
        lambda: restarts() == 2 and "running" in status_of(lab)["state"],
        "the second restart",
        patiently(30),
    )
    assert time.monotonic() - ended > BACK_OFF_S - 2
    started = status_of(lab)["state"]["running"]["startedAt"]
    assert abs(seconds(started) - (time.time() + clock_offset_s)) < patiently(30)


def status_of(lab: Lab) -> Any:
    (status,) = json.loads(lab.run("get", "pod", "web", "-o", "json").out)["status"][
        "containerStatuses"
    ]
    return status

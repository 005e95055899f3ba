"""The machine's clock is set: deadlines of a lab do not move, and times that are shown are of the
clock as it is now.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kubenetlab.api.meta import seconds
from tests.clusters import pod
from tests.labs.faulty import ROOT
from tests.labs.lab import Lab, ran, wait_for
from tests.patience import patiently

HOUR_S = 3600.0
BACK_OFF_S = 10.0
"""Before the second start of a container. Source: pkg/kubelet/kubelet.go backOffPeriod."""


@pytest.mark.parametrize("set_by_s", [-HOUR_S, HOUR_S], ids=["back", "forth"])
def test_a_clock_that_is_set_moves_no_deadline(lab: Lab, tmp_path: Path, set_by_s: float) -> None:
    """A container whose program ended is started again after its back-off: not an hour later, and
    not at once.
    """
    offset = tmp_path / "offset"
    offset.write_text("0")
    command = [
        sys.executable,
        "-m",
        "tests.labs.skewed",
        str(offset),
        "up",
        "--lab",
        lab.name,
        "-f",
        "-",
    ]
    ran(
        subprocess.run(
            command,
            input=pod("web"),
            capture_output=True,
            text=True,
            check=True,
            timeout=patiently(90),
            cwd=ROOT,
        ),
        0,
    )
    web = lab.pod("web")
    end = ("curl", "-s", f"http://{web['addresses'][0]}:8080/exit?code=1&timeout=0s")

    def restarts() -> int:
        return int(status_of(lab)["restartCount"])

    lab.inside(web, *end, status=0)
    wait_for(
        lambda: restarts() == 1 and lab.pod("web")["ready"],
        "the first restart, which comes at once",
    )
    lab.inside(web, *end, status=0)
    ended = time.monotonic()
    wait_for(
        lambda: status_of(lab)["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff",
        "the back-off",
    )
    offset.write_text(str(set_by_s))
    lab.kill("agent")
    wait_for(lambda: restarts() == 2, "the second restart", patiently(30))
    assert time.monotonic() - ended > BACK_OFF_S - 2
    started = status_of(lab)["state"]["running"]["startedAt"]
    assert abs(seconds(started) - (time.time() + set_by_s)) < patiently(30)


def status_of(lab: Lab) -> Any:
    (status,) = json.loads(lab.run("get", "pod", "web", "-o", "json").out)["status"][
        "containerStatuses"
    ]
    return status

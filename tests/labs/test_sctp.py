"""SCTP where the kernel has none: who asks for it is told. With it: tests/vm/test_sctp.py."""

from __future__ import annotations

import pytest

from kubenetlab.kernel.features.feature_probes import PROBES
from kubenetlab.kernel.features.probing import run_probes
from tests.labs.lab import Lab

(FOUND,) = run_probes([trial for trial in PROBES if trial.name == "SCTP"])
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec, --sctp-port=8082]}]}
"""


@pytest.mark.skipif(not FOUND.fault, reason="this kernel has SCTP")
def test_a_program_that_listens_by_sctp_says_why_it_cannot(lab: Lab) -> None:
    """The container ends, as it would in a cluster, and its log names what the machine lacks."""
    lab.up(POD, status=1)
    said = lab.run("logs", "a").out
    assert (
        "listen sctp :8082: protocol not supported by this kernel; see SCTP in kubenetlab doctor"
        in said
    )

"""SCTP on a kernel without it: the container reports it.

tests/vm/test_sctp.py covers kernels with SCTP.
"""

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
spec:
  nodeName: worker
  containers: [{name: main, image: agnhost, args: [netexec, --sctp-port=8082]}]
"""


@pytest.mark.skipif(not FOUND.fault, reason="this kernel has SCTP")
def test_a_program_reports_that_sctp_is_not_available(lab: Lab) -> None:
    """Its container ends, as in a cluster, and the log names the missing feature."""
    lab.up(POD, status=1)
    output = lab.run("logs", "a").out
    assert (
        "listen sctp :8082: protocol not supported by this kernel; see SCTP in kubenetlab doctor"
        in output
    )

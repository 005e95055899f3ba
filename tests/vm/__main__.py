"""Runs pytest on the emulated machine; scripts/vm-test sees to what that needs."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.vm.debian import VmError, kernel
from tests.vm.machine import TIMED_OUT, environment, run

LIMIT_S = int(os.environ.get("KUBENETLAB_VM_LIMIT_S", "1800"))

PROVISIONED = ("sh", "-c", 'scripts/provision && exec "$@"', "sh")
"""The machine is made ready as the Vagrantfile's is, with the programs and the virtual environment
of the machine around it.
"""
SELECTED = ("-m", "vm or kernel", "-o", "testpaths=tests/kernel tests/vm")
"""Where no paths are given, no others are read: reading all tests takes longer there than running
these.
"""


def main() -> int:
    """Exit status: pytest's, 124 after the time limit, 130 after Ctrl-C, 1 when there is no
    machine.
    """
    begun = time.monotonic()
    try:
        found = kernel()
        print(f"starting Linux {found.modules.name}, emulated", flush=True)
        status = run(
            found,
            [*PROVISIONED, sys.executable, "-m", "pytest", *SELECTED, *sys.argv[1:]],
            environment(),
            LIMIT_S,
        )
    except (VmError, OSError, subprocess.SubprocessError) as error:
        print(f"vm-test: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if status == TIMED_OUT:
        print(
            f"vm-test: stopped after {LIMIT_S} s; KUBENETLAB_VM_LIMIT_S allows more",
            file=sys.stderr,
        )
    print(f"the emulated machine is off after {time.monotonic() - begun:.0f} s", flush=True)
    return status


sys.exit(main())

"""Run pytest on the emulated machine; scripts/vm-test provides the requirements."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.vm.debian import Kernel, VmError, kernel
from tests.vm.machine import TIMED_OUT, MachineStoppedError, environment, run

LIMIT_S = int(os.environ.get("KUBENETLAB_VM_LIMIT_S", "2700"))

PROVISIONED = (
    "sh",
    "-c",
    'scripts/provision || exit; "$@" || "$1" -m tests.failed_again tests/kernel tests/vm',
    "sh",
)
"""Shell command that provisions the machine like the Vagrantfile's, and runs the tests.

Programs and the virtual environment of the outer machine are present.
"""
SELECTED = ("-m", "vm or kernel", "-o", "testpaths=tests/kernel tests/vm")
"""Default selection of tests.

Collecting all tests takes longer there than running these.
"""


def main() -> int:
    """Run the tests; return pytest's exit status.

    The status is 124 after the time limit, 130 after Ctrl-C, and 1 without a machine.
    """
    started_at = time.monotonic()
    try:
        debian_kernel = kernel()
        _write_bytecode()
        print(f"starting Linux {debian_kernel.modules.name}, emulated", flush=True)
        status = _run_tests(debian_kernel)
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
    print(f"the emulated machine is off after {time.monotonic() - started_at:.0f} s", flush=True)
    return status


def _run_tests(debian_kernel: Kernel) -> int:
    """Run the tests; start the machine once more if it stops before the tests have begun."""
    command = [*PROVISIONED, sys.executable, "-m", "pytest", *SELECTED, *sys.argv[1:]]
    try:
        return run(debian_kernel, command, environment(), LIMIT_S)
    except MachineStoppedError as stopped:
        if stopped.tests_have_begun:
            raise
        print(f"vm-test: {stopped}, before the tests; it is started again", file=sys.stderr)
        return run(debian_kernel, command, environment(), LIMIT_S)


def _write_bytecode() -> None:
    """Collect the tests on this machine, so that pytest keeps the bytecode of their modules.

    The emulated machine reads it. It would take half a minute to compile the modules there.
    """
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", *SELECTED]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)


sys.exit(main())

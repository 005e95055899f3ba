"""Labs that the pytest plugin makes while other tests run, and removes while others run."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kubenetlab import Lab
from kubenetlab.lab import rundir
from tests.clusters import ONE_NODE, pod
from tests.labs.interrupted_runs import BLOCK, interrupt, waiting_run
from tests.labs.lab import wait_for
from tests.labs.users import User
from tests.process_groups import has_members
from tests.unit.library.test_pytest_plugin import OPTIONS, ROOT, pytest_run

POD = ONE_NODE + pod("client")
HEADER = f"""
import os, sys
from pathlib import Path
from typing import Any
import pytest
from kubenetlab.lab.client import running_labs
sys.path.insert(0, {str(ROOT)!r})
from tests.labs.lab import wait_for
HERE = Path(__file__).parent
def others(lab):  # of this run, and up
    prefix = lab.name.rpartition("-")[0]
    return [name for name in running_labs() if name.startswith(prefix) and name != lab.name]
"""
CONFTEST = """
import os
from itertools import count
from kubenetlab.library import labs_ahead
os.environ["PYTEST_XDIST_WORKER_COUNT"] = "1"  # not that of the run of this test
os.sched_getaffinity = lambda pid: {{0, 1}}  # labs are made ahead where two processors are
NUMBERS = count()
labs_ahead.new_name = lambda: f"{prefix}{{next(NUMBERS)}}"
"""


@pytest.fixture
def prefix() -> str:
    """Return the beginning of the names of the labs of one run."""
    return f"ahead-{secrets.token_hex(4)}-"


@pytest.fixture
def project(tmp_path: Path, prefix: str) -> Path:
    """Return a folder with manifests for tests."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "pod.yaml").write_text(POD)
    (tmp_path / "conftest.py").write_text(CONFTEST.format(prefix=prefix))
    return tmp_path


def labs(prefix: str) -> list[str]:
    """Return the labs of a run that have a run directory, alive or dead."""
    return [lab for lab in rundir.lab_names() if lab.startswith(prefix)]


def run_tests(
    project: Path, tests: str, *options: str, **environment: Any
) -> subprocess.CompletedProcess[str]:
    """Run tests in a folder with manifests."""
    (project / "test_pod.py").write_text(HEADER + tests)
    return pytest_run(project, *OPTIONS, *options, **environment)


AHEAD = """
pytestmark = pytest.mark.kubenetlab(reuse=False)
found = []

def test_first(lab):
    wait_for(lambda: len(others(lab)) == 2, "the labs of the next two tests")
    found.extend(others(lab))

def test_second(lab):
    assert lab.name in found
    assert lab.ping("client", "node:control-plane").ok

def test_third(lab):
    assert lab.name in found
    wait_for(lambda: {*others(lab)} - {*found}, "the lab of the last test")
    found[:] = others(lab)

def test_last(lab):
    assert lab.name in found
    wait_for(lambda: not others(lab), "the lab of the test before to be removed")
"""


def test_the_labs_of_the_next_tests_are_made_while_a_test_runs(project: Path, prefix: str) -> None:
    done = run_tests(project, AHEAD)
    assert "4 passed" in done.stdout, done.stdout
    assert labs(prefix) == []


OUTDATED = """
pytestmark = pytest.mark.kubenetlab(reuse=False)
MANIFEST = HERE / "manifests" / "pod.yaml"
found = []

@pytest.fixture
def other_manifest():
    MANIFEST.write_text(MANIFEST.read_text().replace("name: client", "name: another"))

@pytest.fixture
def other_environment(monkeypatch):
    monkeypatch.setenv("OF_THIS_TEST", "1")

def look(lab):
    wait_for(lambda: len({*others(lab)} - {*found}) == 2, "the labs of the next two tests")
    found.extend(others(lab))

def test_first(lab):
    look(lab)

def test_a_changed_manifest(other_manifest, lab):
    assert lab.name not in found
    assert lab.get("pod", "another")
    look(lab)

def test_a_changed_environment(other_environment, lab):
    assert lab.name not in found
    assert lab.get("pod", "another")

def test_after_it(lab):
    assert lab.name in found
    assert lab.get("pod", "another")
"""


def test_a_lab_made_ahead_is_as_one_made_by_the_test(project: Path, prefix: str) -> None:
    """Otherwise it is not used: a fixture may have changed the manifests or the environment."""
    done = run_tests(project, OUTDATED)
    assert "4 passed" in done.stdout, done.stdout
    assert labs(prefix) == []


def test_an_error_is_that_of_the_test_with_the_mistake(project: Path) -> None:
    """Not of the test during which its lab was made ahead; so are warnings."""
    tests = """
def test_first(lab):
    assert lab.ping("client", "node:control-plane").ok

@pytest.mark.kubenetlab(text="kind: Pod")
def test_mistake(lab):
    pass

def test_second(lab):
    pass

@pytest.mark.kubenetlab(timeout_s="soon")
def test_wrong_type(lab):
    pass

def test_third(lab):
    pass

@pytest.mark.kubenetlab(cni=["flannel"])
def test_list(lab):
    pass

@pytest.mark.kubenetlab(manifests="manifests", text=\"\"\"
apiVersion: v1
kind: Pod
metadata: {name: other}
spec: {colour: red, containers: [{name: a, image: busybox}]}
\"\"\")
def test_warning(lab):
    assert lab.get("pod", "other")
"""
    done = run_tests(project, tests)
    assert "4 passed, 1 warning, 3 errors" in done.stdout, done.stdout
    for name in ("mistake", "wrong_type", "list"):
        assert f"ERROR test_pod.py::test_{name}" in done.stdout
    assert "test_pod.py::test_warning" in done.stdout
    assert "colour" in done.stdout


def test_a_test_may_remove_its_working_directory(project: Path, prefix: str) -> None:
    """Commands that make and remove labs still run."""
    tests = """
pytestmark = pytest.mark.kubenetlab(reuse=False)

def test_first(lab, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()

def test_second(lab):
    assert lab.ping("client", "node:control-plane").ok

def test_third(lab):
    assert lab.ping("client", "node:control-plane").ok
    os.chdir(HERE)
"""
    done = run_tests(project, tests)
    assert "3 passed" in done.stdout, done.stdout
    assert labs(prefix) == []


def test_labs_are_not_made_ahead_against_the_setting(project: Path) -> None:
    (project / "pytest.ini").write_text("[pytest]\nkubenetlab_ahead = false\n")
    tests = """
from kubenetlab.library.labs_ahead import LabsAhead

@pytest.fixture(autouse=True)
def never_ahead(monkeypatch):
    monkeypatch.delattr(LabsAhead, "_begin")

@pytest.mark.kubenetlab(reuse=False)
@pytest.mark.parametrize("number", range(2))
def test_it(lab, number):
    assert lab.ping("client", "node:control-plane").ok
"""
    done = run_tests(project, tests)
    assert "2 passed" in done.stdout, done.stdout


BLOCKING = f"""
@pytest.mark.kubenetlab(reuse=False)
def test_first(lab):
    if WAITS_FOR_LAB:
        wait_for(lambda: others(lab), "the lab of the next test")
    else:
        wait_for(lambda: waiting_commands(), "the command that makes the lab of the next test")
{BLOCK}
@pytest.mark.kubenetlab(NEXT, reuse=False)
def test_next(lab):
    pass
"""
WAITING_COMMANDS = """
def waiting_commands():
    server, = Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
    return Path("/proc", server, "task", server, "children").read_text().split()
"""


@pytest.mark.parametrize("is_made", [True, False], ids=["a lab made ahead", "a lab being made"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing(
    number: signal.Signals, is_made: bool, project: Path, prefix: str
) -> None:
    """Neither the lab of the next test, nor the command that makes it."""
    next_ = "manifests" if is_made else "next/pipe.yaml"
    (project / "next").mkdir()
    os.mkfifo(project / "next" / "pipe.yaml")
    manifest = os.open(project / "next" / "pipe.yaml", os.O_RDWR)  # `up` waits for its content
    values = f"WAITS_FOR_LAB, NEXT = {is_made}, {next_!r}\n"
    (project / "test_pod.py").write_text(HEADER + WAITING_COMMANDS + values + BLOCKING)
    try:
        with waiting_run(project) as run:
            assert labs(prefix)
            interrupt(run, number)
            wait_for(lambda: not labs(prefix), "the labs to be removed")
            wait_for(lambda: not has_members(run.pid), "the processes of the run to end")
    finally:
        os.close(manifest)


def test_a_failed_test_stops_the_run_and_nothing_is_left(project: Path, prefix: str) -> None:
    tests = """
@pytest.mark.kubenetlab(reuse=False)
@pytest.mark.parametrize("number", range(3))
def test_it(lab, number):
    assert number == 0
"""
    done = run_tests(project, tests, "-x")
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert labs(prefix) == []


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "a worker"])
def test_a_lab_that_cannot_be_removed_fails_the_run(
    workers: tuple[str, ...], project: Path, prefix: str
) -> None:
    """The run warns of it. The command server tries again at the end."""
    tests = """
from kubenetlab.library import lab_removals
from kubenetlab.library.process import StartedCommand

def test_it(lab):
    lab_removals.StartedCommand = lambda arguments: StartedCommand([*arguments, "no-such-lab"])
"""
    done = run_tests(project, tests, *workers)
    assert done.returncode == 1, done.stdout
    assert "1 passed, 1 warning" in done.stdout, done.stdout
    assert "LabWarning: cannot remove lab ahead-" in done.stdout
    assert "there is no lab no-such-lab" in done.stdout
    wait_for(lambda: not labs(prefix), "the command server to remove the lab")


def test_a_lab_with_the_name_of_another_one_is_refused(project: Path) -> None:
    """The lab that has the name stays, also after the run."""
    tests = """
from kubenetlab import LabError

def test_it(new_lab):
    with pytest.raises(LabError, match="is up already"):
        new_lab("manifests", name=os.environ["OTHER_LAB"])
"""
    with Lab.up(text=POD) as other:
        done = run_tests(project, tests, OTHER_LAB=other.name)
        assert "1 passed" in done.stdout, done.stdout
        assert other.is_up


def test_the_next_test_can_use_a_name_again(project: Path, prefix: str) -> None:
    """With the fixture, and without it."""
    tests = f"""
from kubenetlab import Lab
NAME = "{prefix}same"

@pytest.mark.parametrize("number", range(3))
def test_fixture(new_lab, number):
    assert new_lab("manifests", name=NAME).ping("client", "node:control-plane").ok

def test_twice(new_lab):
    new_lab("manifests", name=NAME).down()
    assert new_lab("manifests", name=NAME).ping("client", "node:control-plane").ok

def test_class():
    with Lab.up(HERE / "manifests", name=NAME) as lab:
        assert lab.ping("client", "node:control-plane").ok
"""
    done = run_tests(project, tests)
    assert "5 passed" in done.stdout, done.stdout
    assert labs(prefix) == []


def test_labs_of_an_ordinary_user_are_made_ahead(nobody: User) -> None:
    script = f"""
import pathlib, sys, tempfile, pytest
with tempfile.TemporaryDirectory() as directory:
    root = pathlib.Path(directory)
    (root / "conftest.py").write_text({CONFTEST.format(prefix="ahead-user-")!r})
    (root / "test_pod.py").write_text({HEADER + AHEAD!r})
    (root / "test_pod.yaml").write_text({POD!r})
    status = pytest.main([f"--rootdir={{root}}", *{OPTIONS!r}, str(root)])
sys.exit(status)
"""
    result = nobody.run_python("-", stdin=script)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 passed" in result.stdout
    assert nobody.run("list").out == "no lab is up\n"

"""The pytest plugin with labs: reuse, reports of failures, workers, and nothing left behind."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from kubenetlab.lab.client import running_labs
from tests.clusters import ONE_NODE, deployment, pod, service
from tests.labs.interrupted_runs import BLOCK, interrupt, waiting_run
from tests.labs.lab import wait_for
from tests.labs.test_library_changes import DENY
from tests.labs.users import User
from tests.unit.library.test_pytest_plugin import OPTIONS, pytest_run

WEB = ONE_NODE + pod("client") + deployment("web", 2) + service("web")
HEADER = f"""
from pathlib import Path
DENY = {DENY!r}
def remember(lab):
    with open(Path(__file__).with_name("labs"), "a") as file:
        print(lab.name, file=file)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with manifests for tests."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "web.yaml").write_text(WEB)
    return tmp_path


def labs(project: Path) -> list[str]:
    """Return the labs that the tests of a project have used, one for each test."""
    return (project / "labs").read_text().split()


def are_gone(project: Path) -> bool:
    return not set(labs(project)) & set(running_labs())


REUSE = """
import pytest

def test_first(lab):
    remember(lab)
    assert lab.pod("client").can_reach("svc:web")
    lab.apply(text=DENY)
    lab.scale("deploy/web", 1)
    lab.break_("kube-proxy", node="control-plane", how="stopped")

def test_second(lab):
    remember(lab)
    assert lab.pod("client").can_reach("svc:web")
    assert len(lab.get_all("pods", namespace="default")) == 3
    assert lab.get_all("faults") == []
    lab.down()

def test_after_the_lab_has_gone(lab, async_lab):
    remember(lab)
    assert async_lab.name == lab.name
    assert lab.pod("client").can_reach("svc:web")

@pytest.mark.kubenetlab(reuse=False)
def test_alone(lab):
    remember(lab)

@pytest.mark.kubenetlab(kube_proxy_mode="iptables")
def test_another(lab):
    remember(lab)
    assert "KUBE-SVC" in lab.exec("node:control-plane", ["iptables-save"]).stdout

def test_two(new_lab, lab):
    remember(lab)
    other = new_lab("manifests")
    assert other.name != lab.name
    assert other.pod("client").can_reach("svc:web")
    with open(Path(__file__).with_name("other"), "w") as file:
        print(other.name, file=file)
"""


def test_a_lab_is_reset_and_used_again(project: Path) -> None:
    """Tests with the same manifests and arguments share it, and a lab that has gone is replaced."""
    (project / "test_web.py").write_text(HEADER + REUSE)
    done = pytest_run(project, *OPTIONS)
    assert "6 passed" in done.stdout, done.stdout
    first, second, third, alone, other, last = labs(project)
    assert first == second
    assert third == last
    assert len({first, third, alone, other}) == 4
    assert are_gone(project)
    assert (project / "other").read_text().strip() not in running_labs()


FAILING = """
def test_denied(lab):
    remember(lab)
    lab.apply(text=DENY)
    lab.break_("kube-proxy", node="control-plane", how="stopped")
    assert lab.pod("client").can_reach("deploy:web", 8080, deadline_s=0.3)

def test_error(lab):
    remember(lab)
    lab.pod("nobody").can_reach("svc:web")

def test_ok(lab):
    assert lab.pod("client").can_reach("svc:web")
"""


def test_a_failure_explains_the_policy_and_the_state_of_the_lab(project: Path) -> None:
    (project / "test_web.py").write_text(HEADER + FAILING)
    done = pytest_run(project, *OPTIONS)
    assert "2 failed, 1 passed" in done.stdout, done.stdout
    line = r"default/client → default/web-\S+:8080/TCP \(10\.244\.\S+\): no answer, "
    line += r"Kubernetes promises no answer; "
    line += r"NetworkPolicy default/deny isolates default/web-\S+ for ingress"
    assert re.search(rf"^E +AssertionError: assert {line}", done.stdout, re.MULTILINE), done.stdout
    section = (
        rf"- kubenetlab -+\nlab \S+: manifests\nprobes of this test:\n  {line}\nfault 1: .*proxy"
    )
    assert re.search(section, done.stdout)
    assert "there is no pod default/nobody" in done.stdout
    assert are_gone(project)


def test_each_worker_has_a_lab(project: Path) -> None:
    """With pytest-xdist."""
    (project / "test_web.py").write_text(
        HEADER
        + "import pytest\n"
        + "@pytest.mark.parametrize('number', range(6))\n"
        + "def test_it(lab, number):\n"
        + "    remember(lab)\n"
        + "    assert lab.pod('client').can_reach('svc:web')\n"
    )
    done = pytest_run(project, *OPTIONS, "-n", "2", "--dist", "load")
    assert "6 passed" in done.stdout, done.stdout
    assert len(set(labs(project))) == 2
    assert are_gone(project)


BLOCKING = f"""
def test_it(lab):
    remember(lab)
    assert lab.pod("client").can_reach("svc:web")
{BLOCK}"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "a worker"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_lab(
    number: signal.Signals, workers: tuple[str, ...], project: Path
) -> None:
    """Ctrl-C interrupts all processes; if pytest is killed, the command server removes the labs."""
    (project / "test_web.py").write_text(HEADER + BLOCKING)
    with waiting_run(project, *workers) as run:
        interrupt(run, number)
        wait_for(lambda: are_gone(project), "the labs to be removed")


def test_an_ordinary_user_tests_manifests(nobody: User, project: Path) -> None:
    """Without root, in a process of that user."""
    test = "def test_it(lab):\n    assert lab.pod('client').can_reach('svc:web')\n" * 1
    script = f"""
import pathlib, sys, tempfile, pytest
with tempfile.TemporaryDirectory() as directory:
    root = pathlib.Path(directory)
    (root / "test_web.py").write_text({test!r})
    (root / "test_web.yaml").write_text({WEB!r})
    status = pytest.main([f"--rootdir={{root}}", *{OPTIONS!r}, str(root)])
sys.exit(status)
"""
    result = nobody.run_python("-", stdin=script)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout
    assert nobody.run("list").out == "no lab is up\n"

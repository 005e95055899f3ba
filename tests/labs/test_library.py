"""Labs from Python: `kubenetlab.Lab` has the effects of the commands, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import kubenetlab
from kubenetlab import Lab, LabError, LabWarning, ManifestError, PingMatrix, PingSeries, UsageError
from kubenetlab.lab.client import running_labs
from tests.clusters import ONE_NODE, deployment, pod, service
from tests.conftest import LAB_PREFIX
from tests.labs import lab as commands
from tests.labs.lab import run, wait_for
from tests.labs.users import User
from tests.patience import patiently

WEB = ONE_NODE + pod("client") + deployment("web", 2) + service("web")
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}}
"""
UNREADY = pod("never", container=", readinessProbe: {tcpSocket: {port: 9}, periodSeconds: 1}")


def name(suffix: str) -> str:
    return f"{LAB_PREFIX}py-{suffix}"


def leftovers(lab: str) -> list[str]:
    return commands.Lab(lab).leftovers


@pytest.fixture(scope="module")
def web() -> Iterator[Lab]:
    """Start a lab with a Service of two pods, and a client."""
    with Lab.up(text=WEB, name=name("web"), timeout_s=patiently(30)) as lab:
        yield lab
    assert leftovers(lab.name) == []


def test_a_lab_lasts_as_long_as_the_block(tmp_path: Path) -> None:
    """Files and text together describe it, and it can be changed."""
    file = tmp_path / "web.yaml"
    file.write_text(ONE_NODE + deployment("web", 1) + service("web"))
    lab_name = name("block")
    with Lab.up(file, text=pod("client"), name=lab_name, timeout_s=patiently(30)) as lab:
        assert (lab.name, lab.is_up, repr(lab)) == (lab_name, True, f"Lab({lab_name!r})")
        assert lab.ping("client", "svc:web").ok
        lab.apply(text=deployment("web", 3), timeout_s=patiently(30))
        assert len(lab.get_all("pods", namespace="default")) == 4
        assert lab.run("scale", "deploy/web", "2").returncode == 0
        assert lab.get("deployment", "web")["spec"]["replicas"] == 2
    assert not lab.is_up
    assert leftovers(lab_name) == []
    lab.down()


def test_a_lab_is_removed_after_an_error_in_the_block() -> None:
    """A failed assertion of a test is such an error."""
    with (
        pytest.raises(ZeroDivisionError),
        Lab.up(text=ONE_NODE, name=name("error"), timeout_s=patiently(30)) as lab,
    ):
        raise ZeroDivisionError
    assert leftovers(lab.name) == []


def test_a_lab_that_does_not_become_ready_is_removed() -> None:
    """The error says why; without waiting, the lab stays."""
    with pytest.raises(LabError, match=r"not ready: .*default/never"):
        Lab.up(text=ONE_NODE + UNREADY, name=name("unready"), timeout_s=1)
    assert leftovers(name("unready")) == []
    with pytest.warns(LabWarning, match="nothing in the pod listens on 9/TCP") as caught:
        lab = Lab.up(text=ONE_NODE + UNREADY, name=name("unready"), wait=False)
    with lab:
        assert Path(caught[0].filename) == Path(__file__)
        assert lab.is_up
        with pytest.raises(LabError, match="not ready"):
            lab.apply(text=pod("more"), timeout_s=1)
        assert lab.is_up


def test_a_lab_without_a_checkpoint_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets an error in place of the lab, and could not remove it."""

    def fail(lab: Lab) -> None:
        raise LabError("the agent does not answer")

    monkeypatch.setattr(Lab, "checkpoint", fail)
    with pytest.raises(LabError, match="the agent does not answer"):
        Lab.up(text=ONE_NODE, name=name("checkpoint"), timeout_s=patiently(30))
    assert leftovers(name("checkpoint")) == []


def test_a_warning_that_is_an_error_leaves_no_lab() -> None:
    """Filters turn warnings into errors, such as `-W error` of Python and pytest."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LabWarning, match="not enforced"):
            Lab.up(
                text=ONE_NODE + POLICY,
                policy_engine="none",
                name=name("warning"),
                timeout_s=patiently(30),
            )
    assert leftovers(name("warning")) == []


BLOCK = """
import sys
from kubenetlab import Lab
with Lab.up(name=sys.argv[1], text=sys.argv[2]):
    print("in the block", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("is_in_block", [True, False], ids=["in the block", "while it is made"])
def test_an_interrupt_removes_the_lab(is_in_block: bool) -> None:
    """Ctrl-C interrupts the program and the command that it runs."""
    lab = name("interrupt")
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCK, lab, WEB],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None
    if is_in_block:
        assert process.stdout.readline() == "in the block\n"
    else:
        wait_for(commands.Lab(lab).directory.exists, "the lab's directory")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=patiently(30))
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert leftovers(lab) == []


def test_problems_of_manifests_have_file_and_line(tmp_path: Path) -> None:
    """One error has all problems, like the error of the command, and no lab is made."""
    file = tmp_path / "web.yaml"
    file.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: 7}\n")
    with pytest.raises(ManifestError) as caught:
        Lab.up(file, text="kind: Pod\n", name=name("wrong"))
    assert [(problem.file, problem.line) for problem in caught.value.problems] == [
        (str(file), 4),
        ("<stdin>", 1),
    ]
    assert leftovers(name("wrong")) == []


def test_warnings_are_python_warnings(web: Lab) -> None:
    """With `strict`, they are errors."""
    text = pod("client", spec=", unknownField: 1")
    with pytest.warns(LabWarning, match="unknown field") as caught:
        web.apply(text=text, timeout_s=patiently(30))
    assert Path(caught[0].filename) == Path(__file__)
    with pytest.raises(ManifestError, match="unknown field"):
        web.apply(text=text, strict=True)


def test_the_name_of_a_lab_belongs_to_one_lab(web: Lab) -> None:
    """A second lab of that name is refused, and the first lab is unchanged."""
    with pytest.raises(LabError, match=rf"{web.name} is up already; connect to it with Lab\("):
        Lab.up(text=ONE_NODE, name=web.name)
    assert web.ping("client", "svc:web").ok


def test_labs_get_different_names_and_can_be_made_at_the_same_time() -> None:
    """Threads of one process make two labs."""

    def answer(_: int) -> tuple[str, bool]:
        with Lab.up(text=WEB, timeout_s=patiently(60)) as lab:
            return lab.name, lab.ping("client", "svc:web").ok

    with ThreadPoolExecutor(2) as threads:
        results = dict(threads.map(answer, range(2)))
    assert len(results) == 2
    assert set(results.values()) == {True}
    assert [leftovers(lab) for lab in results] == [[], []]


def test_a_running_lab_is_found_by_its_name(web: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    connected = Lab(web.name)
    assert connected.name == web.name
    with pytest.raises(LabError, match=f"no lab {web.name}x is up"):
        Lab(f"{web.name}x")
    if running_labs() == [web.name]:
        assert Lab().name == web.name
    monkeypatch.setenv("KUBENETLAB_LAB", web.name)
    assert Lab().name == web.name


def test_a_lab_is_inspected_as_by_the_command(web: Lab) -> None:
    assert web.inspect() == run("inspect", "--lab", web.name, "-o", "json").json


def test_objects_without_a_namespace_are_listed(web: Lab) -> None:
    assert [node["metadata"]["name"] for node in web.get_all("nodes")] == ["control-plane"]


@pytest.mark.parametrize("make", [lambda: Lab.up(name="../x"), lambda: Lab("../x")])
def test_an_invalid_name_is_refused(make: Callable[[], Lab]) -> None:
    """It could be a path."""
    with pytest.raises(UsageError, match=r"\.\./x"):
        make()


def test_a_ping_has_the_result_of_the_command(web: Lab) -> None:
    """A Service, an ICMP ping, a refused port and a GET have the fields of the command."""
    answered = web.ping("client", "svc:web", family="IPv4", deadline_s=patiently(2))
    assert (answered.ok, answered.outcome, answered.expected) == (True, "answer", "answer")
    assert (answered.protocol, answered.port) == ("TCP", 80)
    assert answered.address == web.get("service", "web")["spec"]["clusterIP"]
    assert web.ping("client", "deploy:web").protocol == "ICMP"
    refused = web.ping("client", "deploy:web", port=9)
    assert (refused.ok, refused.outcome, refused.is_answered) == (False, "refused", False)
    page = web.ping("client", "svc:web", path="/hostname", namespace="default")
    assert "web-" in page.body
    command_result = run("ping", "--lab", web.name, "client", "svc:web", "-o", "json").json
    assert (command_result["from"], command_result["to"]) == (answered.source, answered.destination)


def test_this_process_stays_in_its_namespaces(web: Lab) -> None:
    """Probes and programs run in processes of their own."""
    namespaces = ("net", "mnt", "pid", "uts", "user")
    before = [os.readlink(f"/proc/self/ns/{kind}") for kind in namespaces]
    threads = threading.active_count()
    web.ping("client", "svc:web")
    web.exec("client", ["true"])
    assert [os.readlink(f"/proc/self/ns/{kind}") for kind in namespaces] == before
    assert threading.active_count() == threads


def test_a_series_and_a_matrix_have_the_results_of_all_pings(web: Lab) -> None:
    """Servers share the requests of a series, and every pair of the matrix is as expected."""
    series = web.ping_series("client", "svc:web", 20, path="/hostname")
    assert isinstance(series, PingSeries)
    assert (series.ok, series.count, series.answered, series.failed) == (True, 20, 20, {})
    assert sum(server.count or 0 for server in series.servers) == 20
    assert series.unnamed == 0
    assert series.latency_ms is not None
    assert 0 < series.latency_ms.min <= series.latency_ms.median <= series.latency_ms.max
    assert [client.owner for client in series.client_addresses] == ["default/client"]
    matrix = web.ping_matrix()
    assert isinstance(matrix, PingMatrix)
    assert (matrix.ok, matrix.failures, matrix.diagnostics) == (True, (), ())
    assert {"default/client", "node:control-plane"} <= {cell.source for cell in matrix.cells}


def test_a_check_compares_tables_of_files_and_text_with_the_lab(web: Lab, tmp_path: Path) -> None:
    """A row that fails is a result, and no error."""
    file = tmp_path / "expect.yaml"
    file.write_text(
        "version: 1\nname: shop\nprobes:\n- {from: client, to: svc:web, expect: deny}\n"
    )
    result = web.check(file, text="[{from: client, to: svc:web, expect: allow}]")
    assert [row.state for row in result.rows] == ["fails", "holds"]
    (failure,) = result.failures
    assert (result.ok, failure.place, failure.table) == (False, f"{file}:4", "shop")
    assert (failure.expected, failure.outcome) == ("deny", "answer")
    assert web.check().ok
    with pytest.raises(ManifestError, match=r"<stdin>:1  version: expected 1, found 2"):
        web.check(text="{version: 2, probes: []}")


def test_objects_that_are_not_enforced_make_a_result_meaningless() -> None:
    """The result names them, and the caller can accept them."""
    with pytest.warns(LabWarning, match="not enforced"):
        lab = Lab.up(
            text=WEB + POLICY, policy_engine="none", name=name("policy"), timeout_s=patiently(30)
        )
    with lab:
        ping = lab.ping("client", "svc:web")
        assert (ping.ok, ping.outcome) == (False, "answer")
        assert ping.unenforced == ("NetworkPolicy deny",)
        assert lab.ping("client", "svc:web", allow_unmodelled=["NetworkPolicy"]).ok
        with pytest.raises(UsageError, match='allow_unmodelled: there is no kind "NetworkPolcy"'):
            lab.ping("client", "svc:web", allow_unmodelled=["NetworkPolcy"])
        check = lab.check(text="[{from: client, to: svc:web, expect: allow}]")
        assert (check.ok, check.failures) == (False, ())
        assert [item.name for item in check.diagnostics] == ["deny"]


@pytest.mark.parametrize("workload", ["deploy/web", "deploy:web", "deploy:default/web"])
def test_a_workload_is_scaled(web: Lab, workload: str) -> None:
    """It is written as kubectl does, or as a target with its namespace."""
    web.scale(workload, 3, timeout_s=patiently(30))
    assert web.get("deployment", "web")["status"]["readyReplicas"] == 3
    web.scale(workload, 2, timeout_s=patiently(30))
    with pytest.raises(UsageError, match="replicas: expected 0<=replicas<=20000, found -1"):
        web.scale(workload, -1)
    with pytest.raises(LabError, match=r'deployments.* "web" not found'):
        web.scale("deploy:other/web", 3)


def test_programs_run_inside_a_pod(web: Lab) -> None:
    """Their status, output and standard input are passed on."""
    addresses = json.loads(web.exec("client", ["ip", "-j", "address", "show", "eth0"]).stdout)
    (entry,) = [pod for pod in web.inspect()["pods"] if pod["name"] == "client"]
    assert addresses[0]["addr_info"][0]["local"] == entry["addresses"][0]
    result = web.exec("deploy:web", ["sh", "-c", "cat; echo no >&2; exit 3"], stdin="given")
    assert (result.returncode, result.stdout, result.stderr) == (3, "given", "no\n")
    with pytest.raises(LabError, match="has not ended after 1 s"):
        web.exec("client", ["sleep", "60"], timeout_s=1)
    with pytest.raises(UsageError, match="no pod default/nobody"):
        web.exec("nobody", ["true"])


def test_missing_objects_are_errors(web: Lab) -> None:
    with pytest.raises(LabError, match=r"services \"wob\" not found; did you mean web"):
        web.get("service", "wob")
    with pytest.raises(UsageError):
        web.get_all("widgits")
    with pytest.raises(UsageError, match="there is no pod default/nobody"):
        web.ping("nobody", "svc:web")
    lab = Lab.up(text=ONE_NODE, name=name("gone"), timeout_s=patiently(30))
    lab.down()
    with pytest.raises(LabError, match="no lab"):
        lab.ping("client", "svc:web")


SCRIPT = f"""
import os
from kubenetlab import Lab
before = os.readlink("/proc/self/ns/user")
with Lab.up(text={WEB!r}, timeout_s={patiently(60)}) as lab:
    assert lab.ping("client", "svc:web").ok
    assert lab.ping("client", "svc:web").ok
    assert lab.exec("client", ["cat"], stdin="given").stdout == "given"
assert os.readlink("/proc/self/ns/user") == before
print(lab.is_up, end="")
"""


def test_an_ordinary_user_has_labs_in_python(nobody: User) -> None:
    """A process of such a user cannot leave a lab that it has entered."""
    result = nobody.run_python("-", stdin=SCRIPT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "False", "")


def test_the_names_of_the_package_are_imported_at_their_first_use() -> None:
    assert kubenetlab.Lab is Lab
    assert set(kubenetlab.__all__) <= set(dir(kubenetlab))
    with pytest.raises(AttributeError, match="has no attribute 'Labs'"):
        kubenetlab.Labs  # type: ignore[attr-defined]  # noqa: B018

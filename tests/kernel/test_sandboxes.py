"""Sandboxes on Linux: pause processes, adoption, shared networks, and programs inside."""

from __future__ import annotations

import os
import platform
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.existing import LinkUp
from kubenetlab.hoststate.links.veth import Port, Veth
from kubenetlab.hoststate.sandbox import Sandbox, Sysctl
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.linux import LinuxKernel
from kubenetlab.kernel.namespaces import enter, pause
from kubenetlab.kernel.processes.identity import has_exited
from tests.clusters import deployment
from tests.kernel.states import Make, apply_desired, difference, ip, plan_netlink, state_of
from tests.patience import patiently


def test_an_adopted_lab_has_no_drift(kernel: Make) -> None:
    """A new agent finds sandboxes by title and executable, and links by index."""
    linux, desired = kernel(), plan_netlink(deployment())
    apply_desired(linux, desired)
    impostor = os.posix_spawn("/bin/sleep", ["t/node/worker", "30"], {})
    successor = LinuxKernel(type(linux.sandboxes)("t", "/run/pause"))
    successor.sandboxes.adopt()
    assert successor.sandboxes.pids == linux.sandboxes.pids
    assert impostor not in successor.sandboxes.pids.values()
    assert difference(successor, desired) == ""
    os.kill(impostor, signal.SIGKILL)


def test_removing_a_sandbox_frees_its_namespace(kernel: Make) -> None:
    """The pause process exits, and the node's end of the link disappears."""
    linux = kernel()
    desired = state_of(
        Bridge("node", "br0", "0a:58:00:00:00:01"),
        Veth("pod", "eth0", "0a:58:00:00:00:02", "node", "veth0"),
        Port("node", "veth0", "br0", "0a:59:00:00:00:02", alias="a pod"),
    )
    apply_desired(linux, desired)
    pid = linux.sandboxes.pids["pod"]
    without = HostState(
        {
            "node": contents_of(
                [obj for obj in desired["node"].values() if not isinstance(obj, Port)]
            )
        }
    )
    linux.apply(diff(desired, without)).raise_failures()
    linux.sandboxes.remove("pod")
    os.waitpid(pid, 0)
    deadline = time.monotonic() + patiently(5)
    while "veth0" in ip(linux, "node", "link") and time.monotonic() < deadline:
        pass
    assert "veth0" not in ip(linux, "node", "link")


def test_a_shared_sandbox_uses_its_nodes_network(kernel: Make) -> None:
    """A hostNetwork pod shares the node's network and host name, but not IPC and PID namespace."""
    linux = kernel()
    desired = HostState(
        {
            "node": contents_of(
                [
                    Sandbox("node", "worker"),
                    LinkUp("node", "lo"),
                    Sysctl("node", "net/ipv4/ip_forward", "1"),
                ]
            ),
            "pod": contents_of([Sandbox("pod", "worker", shares="node")]),
        }
    )
    apply_desired(linux, desired)
    assert difference(linux, desired) == ""

    def namespace(kind: str, netns: str) -> str:
        return os.readlink(f"/proc/{linux.sandboxes.pids[netns]}/ns/{kind}")

    assert [
        namespace(kind, "node") == namespace(kind, "pod") for kind in ("net", "uts", "ipc", "pid")
    ] == [
        True,
        True,
        False,
        False,
    ]


def test_a_pause_process_has_a_title_and_leaves_no_zombies(kernel: Make) -> None:
    """As PID 1 it reaps orphans; the title names the sandbox."""
    linux = kernel()
    apply_desired(linux, state_of(Sysctl("n", "net/ipv4/ip_forward", "1")))
    pid = linux.sandboxes.pids["n"]
    linux.sandboxes.adopt()
    assert linux.sandboxes.pids == {"n": pid}
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"t/n\0"
    orphan = subprocess.run(
        ["nsenter", "-t", str(pid), "-p", "-m", "sh", "-c", "(sleep 0.01 &) ; echo gone"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert orphan.stdout == "gone\n"
    deadline = time.monotonic() + patiently(5)
    while time.monotonic() < deadline:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            break
    assert children == []
    assert "VmRSS" in Path(f"/proc/{pid}/status").read_text()


def test_a_pause_process_is_adopted_before_it_calls_execve(kernel: Make) -> None:
    """posix_spawn() returns before the child has executed pause; `adopt` waits for that."""
    linux = kernel()
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        select.select([], [], [], 0.05)
        os.execv("/run/pause", ["t/n"])
    linux.sandboxes.adopt()
    assert linux.sandboxes.pids == {"n": pid}


def test_the_newer_of_two_pause_processes_is_adopted(kernel: Make) -> None:
    """The older one is killed: its links would keep names that the newer one needs."""
    linux = kernel()
    desired = state_of(Sysctl("n", "net/ipv4/ip_forward", "1"))
    apply_desired(linux, desired)
    older = linux.sandboxes.pauses.pop("n")
    apply_desired(linux, desired)
    newer = linux.sandboxes.pids["n"]
    linux.sandboxes.adopt()
    assert linux.sandboxes.pids == {"n": newer}
    assert os.waitstatus_to_exitcode(os.waitpid(older.pid, 0)[1]) == -signal.SIGKILL


def test_the_exit_of_a_former_pause_process_does_not_affect_its_successor(kernel: Make) -> None:
    """This holds whenever the exit is noticed. A sandbox never has two pause processes."""
    linux = kernel()
    desired = state_of(Sysctl("n", "net/ipv4/ip_forward", "1"))
    apply_desired(linux, desired)
    former = linux.sandboxes.pauses["n"]
    former.open()
    former.kill()
    linux.apply(diff(HostState(), desired)).raise_failures()
    successor = linux.sandboxes.pauses["n"]
    assert not linux.sandboxes.discard("n", former)
    assert linux.sandboxes.pauses == {"n": successor}
    assert select.select([former.pidfd], [], [], patiently(5))[0]
    assert has_exited(former.pidfd)
    assert former.reap()
    former.kill()  # success: it is dead already
    assert linux.sandboxes.discard("n", successor)
    assert linux.sandboxes.pauses == {}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_pause_program_runs_on_every_architecture(machine: str, kernel: Make) -> None:
    """It sleeps until it is killed. Code of another architecture runs in qemu's user mode."""
    emulator = (
        []
        if machine == platform.machine()
        else [shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}") or ""]
    )
    if emulator == [""]:
        pytest.skip(f"no qemu-{machine} here (apt-get install qemu-user-static)")
    path = Path("/run/pause-other")
    path.write_bytes(pause.program(machine))
    path.chmod(0o755)
    process = subprocess.Popen([*emulator, str(path)])
    deadline = time.monotonic() + patiently(5)
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended with {process.returncode}"
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        ignored = next(
            line.split()[1]
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if line.startswith("SigIgn")
        )
        if state == "S" and int(ignored, 16) & 1 << 16:
            break
    assert (state, bool(int(ignored, 16) & 1 << 16)) == ("S", True)
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "files", [enter.OwnFiles(()), enter.HostFiles("/run/scratch")], ids=["own files", "host files"]
)
def test_programs_see_the_pods_resolver_on_a_machine_with_systemd_resolved(
    kernel: Make, files: enter.OwnFiles | enter.HostFiles, capfd: pytest.CaptureFixture[str]
) -> None:
    """On Ubuntu /etc/resolv.conf links to /run/systemd/resolve, which is hidden from programs.

    Signals have their default actions.
    """
    linux = kernel()
    apply_desired(linux, state_of(Sysctl("n", "net/ipv4/ip_forward", "1")))
    etc, resolved = Path("/run/etc"), Path("/run/systemd/resolve")
    resolved.mkdir(parents=True)
    (resolved / "stub-resolv.conf").write_text("nameserver 127.0.0.53\n")
    (resolved / "io.systemd.Resolve").write_text("")
    etc.mkdir()
    (etc / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (etc / "hosts").write_text("127.0.0.1 machine\n")
    syscalls.mount(str(etc), "/etc", flags=syscalls.MS_BIND)
    Path("/run/scratch").mkdir()
    command = (
        "cat /etc/resolv.conf /etc/hosts; ls /run/systemd/resolve; grep SigIgn /proc/self/status"
    )
    status = enter.run(
        os.pidfd_open(linux.sandboxes.pids["n"]),
        ["sh", "-c", command],
        hosts="10.0.0.1 pod\n",
        resolv_conf="nameserver 10.96.0.10\n",
        files=files,
        environment={"PATH": "/usr/bin:/bin"},
    )
    assert status == 0
    assert capfd.readouterr().out.split("\n")[:-1] == [
        "nameserver 10.96.0.10",
        "10.0.0.1 pod",
        "stub-resolv.conf",
        "SigIgn:\t0000000000000000",
    ]

"""Containers with commands of this machine: their environment, their output, and their end."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

from kubenetlab.lab.runtime.container_logs import MAX_BYTES
from tests.labs.lab import Lab, cmdline, run, wait_for
from tests.labs.real_commands import ONE_NODE, SERVES, SERVICE, log_lines, pod, status

INSPECTS_ENVIRONMENT = """\
  - name: main
    image: anything
    command:
    - sh
    - -c
    - >-
      hostname; echo $WORD; echo $HOME $PATH; ls -a /tmp;
      touch /tmp/mine /var/log/mine /run/mine && echo own; touch /etc/mine || echo read-only;
      cat /etc/hosts /etc/resolv.conf; pwd; exec sleep 1000
    workingDir: /usr
    env: [{name: WORD, value: hello}]
    readinessProbe:
      exec: {command: [sh, -c, "test -f /tmp/mine && test $WORD = hello"]}
      periodSeconds: 1
"""


def test_a_command_has_the_pods_namespaces_and_private_directories(lab: Lab) -> None:
    """It has the pod's hostname, environment, /etc/hosts and resolv.conf.

    /tmp, /var and /run are private and empty, and all else is read-only.
    """
    lab.up(ONE_NODE + pod("web", INSPECTS_ENVIRONMENT))
    lines = log_lines(lab, "web")
    assert lines[:3] == [
        "web",
        "hello",
        "/root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    assert lines[3:6] == [".", "..", "own"]
    assert "read-only" in lines[7]
    assert f"{lab.pod('web')['addresses'][0]}\tweb" in lines
    assert "nameserver 10.96.0.10" in lines
    assert lines[-1] == "/usr"
    assert not Path("/tmp/mine").exists()
    assert not Path("/run/mine").exists()
    described = lab.run("describe", "pod", "web").out
    assert "exec sleep 1000' (process" in described
    assert "is it serving?" not in described
    (container,) = lab.pod("web")["containers"]
    assert (container["program"], bool(container["pid"])) == ("command", True)


INSPECTS_HOMES = """\
  - name: main
    image: anything
    command:
    - sh
    - -c
    - >-
      cat $OWN/server 2>/dev/null; ls -A /root; ls -A /home; ls -A $OWN;
      touch /root/mine && echo own; exec sleep 1000
    env: [{name: OWN, value: %s}]
    readinessProbe: {exec: {command: [test, -f, /root/mine]}, periodSeconds: 1}
"""
COMMAND_IN_HOME = "  - {name: main, image: anything, command: [%s]}\n"


def test_commands_do_not_see_home_directories(lab: Lab) -> None:
    """Home directories are private and empty, including that of the lab's owner."""
    with tempfile.TemporaryDirectory(dir="/opt") as home:
        program = Path(home, "server")
        program.write_text("#!/bin/sh\nexec sleep 1000\n")
        program.chmod(0o755)
        text = (
            ONE_NODE
            + pod("web", INSPECTS_HOMES % home)
            + pod("server", COMMAND_IN_HOME % program, "  restartPolicy: Never\n")
        )
        run(
            "up", "--lab", lab.name, "-f", "-", stdin=text, prefix=("env", f"HOME={home}"), status=1
        )
        plain = pod("plain", COMMAND_IN_HOME % program, annotation="")
        run(
            "up",
            "--lab",
            lab.name,
            "-f",
            "-",
            "--real-commands",
            stdin=plain,
            prefix=("env", f"HOME={home}"),
            status=1,
        )
        assert lab.pod("plain")["containers"][0]["program"] != "command"
        assert log_lines(lab, "web") == ["own"]
        assert log_lines(lab, "server") == [
            f'exec: "{program}": executable file not found in $PATH: commands do not see {home} '
            "of this machine; copy what they need to a directory such as /opt"
        ]


def test_the_end_of_a_command_is_reported(lab: Lab) -> None:
    """The report has the exit status and the last line of output.

    A missing program is reported as not started. Background processes end with the command.
    """
    ends = "  - {name: main, image: x, command: [sh, -c, 'sleep 1000 & echo bye; exit 3']}\n"
    errors = lab.up(
        ONE_NODE
        + pod("once", ends, "  restartPolicy: Never\n")
        + pod("none", "  - {name: main, image: x, command: [no-such-program]}\n"),
        status=1,
    ).err
    missing = 'exec: "no-such-program": executable file not found in $PATH'
    assert "not ready: default/once: Error: container main: exit status 3: bye\n" in errors
    assert (
        f"not ready: default/none: CrashLoopBackOff: container main: exit status 127: {missing}\n"
        in errors
    )
    terminated = status(lab, "once")["state"]["terminated"]
    assert (terminated["exitCode"], terminated["message"]) == (3, "bye")
    last_terminated = status(lab, "none")["lastState"]["terminated"]
    assert (last_terminated["exitCode"], last_terminated["message"]) == (127, missing)
    assert lab.run("logs", "none").out.splitlines()[0] == missing
    descriptions = {name: lab.run("describe", "pod", name).out for name in ("once", "none")}
    assert "Container main ended: exit status 3: bye" in descriptions["once"]
    assert f"Error: {missing}" in descriptions["none"]
    assert "Started container" not in descriptions["none"]
    assert all(
        "a ping, added by the lab" in text and "(not running)" in text
        for text in descriptions.values()
    )
    wait_for(
        lambda: not [pid for pid in lab.pids() if b"sleep\x001000" in cmdline(pid)],
        "the end of background processes",
    )


CONFINED = """\
  - name: main
    image: x
    command:
    - sh
    - -c
    - >-
      (mknod /tmp/disk b 8 0 || mount -t tmpfs none /mnt ||
      echo core > /proc/sys/kernel/core_pattern || hostname mine) 2>&1;
      echo devices; ls /dev; ip address add 192.0.2.1/32 dev lo 2>&1 && echo added;
      echo end; exec sleep 1000
"""
WITH_NET_ADMIN = "    securityContext: {capabilities: {add: [NET_ADMIN], drop: [CHOWN]}}\n"


def test_a_command_cannot_change_the_machine(lab: Lab) -> None:
    """Devices, mounts and settings of the kernel are denied.

    It may configure the pod's network only if the manifest says so. `up` names the commands.
    """
    errors = lab.up(ONE_NODE + pod("web", CONFINED) + pod("router", CONFINED + WITH_NET_ADMIN)).err
    assert "Pod default/web (sh), Pod default/router (sh)" in " ".join(errors.split())
    lines = wait_for(
        lambda: lines if "end" in (lines := log_lines(lab, "web")) else [], "the end of the command"
    )
    refused, devices = (
        "\n".join(lines[: lines.index("devices")]),
        lines[lines.index("devices") + 1 : lines.index("zero") + 1],
    )
    for denial in (
        "mknod: /tmp/disk: Operation not permitted",
        "mount: /mnt: permission denied",
        "core_pattern: Read-only",
        "hostname: ",
    ):
        assert denial in refused
    assert devices == [
        "fd",
        "full",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
    ]
    assert "added" not in lines
    assert "added" in log_lines(lab, "router")


STUBBORN = (
    "  - {name: main, image: x, command: [sh, -c, 'trap : TERM; while :; do sleep 0.1; done']}\n"
)
CAREFUL = (
    "  - {name: main, image: x, command: [sh, -c, "
    '\'trap "echo closing; sleep 0.5; echo closed > /dev/shm/x; exit 0" TERM; '
    "while :; do sleep 0.1; done']}\n"
)


def test_a_pod_waits_for_its_commands_during_its_grace_period(lab: Lab) -> None:
    """SIGTERM is sent first.

    A command that ends is not waited for any longer; others are killed at the end of the grace
    period.
    """
    lab.up(
        ONE_NODE
        + pod("careful", CAREFUL)
        + pod("stubborn", STUBBORN, "  terminationGracePeriodSeconds: 2\n")
    )
    lab.run("delete", "pod", "careful", "stubborn", "--no-wait")
    names = {entry["metadata"]["name"] for entry in lab.get("pods")["items"]}
    assert names == {"careful", "stubborn"}
    wait_for(
        lambda: {entry["metadata"]["name"] for entry in lab.get("pods")["items"]} == {"stubborn"},
        "the end of the careful pod",
    )
    wait_for(lambda: not lab.get("pods")["items"], "the end of the stubborn pod")


def test_real_commands_applies_to_a_whole_lab(lab: Lab) -> None:
    """With --real-commands, programs that this machine lacks are still built in."""
    sleeps, unknown = (
        "  - {name: main, image: busybox, command: [sleep, '1000']}\n",
        "  - {name: main, image: nginx, command: [no-such-program]}\n",
    )
    lab.up(
        ONE_NODE + pod("real", sleeps, annotation="") + pod("stand-in", unknown, annotation=""),
        "--real-commands",
    )
    programs = {
        entry["name"]: entry["containers"][0]["program"]
        for entry in lab.inspected["pods"]
        if entry["namespace"] == "default"
    }
    assert programs == {"real": "command", "stand-in": "web"}


def test_commands_survive_a_killed_agent(lab: Lab) -> None:
    """A new agent finds them running, and starts nothing twice."""
    lab.up(ONE_NODE + pod("web", SERVES) + SERVICE)
    before, agent = lab.pod("web")["containers"][0]["pid"], lab.inspected["agent_pid"]
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: lab.inspected["agent_pid"] != agent, "another agent")
    assert (
        wait_for(
            lambda: lab.pod("web")["containers"][0]["pid"],
            "the new agent to read the state of init",
        )
        == before
    )
    assert status(lab, "web")["restartCount"] == 0
    assert lab.run("ping", "web", "svc:web", "--http", "/", "-o", "json").json["found"] == "answer"


SHORT_LIVED_PODS, SHORT_LIVED_CONTAINERS = 20, 25


def short_lived(pods: int, containers: int) -> str:
    """Return pods whose containers end at once, each with a different exit status."""
    specs = "".join(
        f"  - {{name: c{number}, image: anything, command: [sh, -c, 'exit {number}']}}\n"
        for number in range(1, containers + 1)
    )
    return "".join(
        pod(f"brief-{number}", specs, "  restartPolicy: Never\n") for number in range(pods)
    )


def have_expected_exits(lab: Lab, pods: int, containers: int) -> bool:
    """Return True once the exit status of every container is known and right."""
    statuses = [
        pod["status"]
        for pod in lab.get("pods")["items"]
        if pod["metadata"]["name"].startswith("brief-")
    ]
    codes = [
        [
            status["state"].get("terminated", {}).get("exitCode")
            for status in pod["containerStatuses"]
        ]
        for pod in statuses
    ]
    return [pod["phase"] for pod in statuses] == ["Failed"] * pods and codes == [
        list(range(1, containers + 1))
    ] * pods


def test_no_exit_of_a_short_lived_container_is_lost(lab: Lab) -> None:
    """A command may end before its start has been reported."""
    lab.up(ONE_NODE + short_lived(SHORT_LIVED_PODS, SHORT_LIVED_CONTAINERS), status=1)
    wait_for(
        lambda: have_expected_exits(lab, SHORT_LIVED_PODS, SHORT_LIVED_CONTAINERS), "all exits"
    )


WAITS = """\
  - name: main
    image: anything
    command: [sh, -c, "until [ -e /tmp/go ]; do sleep 0.02; done; echo done; exit 3"]
"""


def test_the_next_agent_reports_an_exit_that_was_not_stored(lab: Lab) -> None:
    """The agent is stopped while a command ends, and killed before it can read the exit."""
    lab.up(ONE_NODE + pod("work", WAITS, "  restartPolicy: Never\n"))
    (process,) = [container["pid"] for container in lab.pod("work")["containers"]]
    process_directory = Path(f"/proc/{lab.inspected['init_pid']}/root/proc/{process}")
    (agent,) = lab.pids(f"kubenetlab {lab.name} agent")
    os.kill(agent, signal.SIGSTOP)
    Path(process_directory, "root/tmp/go").touch()
    wait_for(lambda: not process_directory.exists(), "the end of the command")
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: lab.get("pod", "work")["status"]["phase"] == "Failed", "the exit")
    assert status(lab, "work")["state"]["terminated"]["exitCode"] == 3
    assert status(lab, "work")["restartCount"] == 0
    assert log_lines(lab, "work") == ["done"]


PRINTS = """\
  - name: main
    image: anything
    command: [sh, -c, "yes | head -c 400000000; echo the end; exec sleep 1000"]
"""


def test_the_size_of_a_log_is_limited(lab: Lab) -> None:
    """The log occupies memory, and is truncated while it is written.

    The lab answers meanwhile.
    """
    lab.up(ONE_NODE + pod("web", PRINTS))
    largest = 0

    def has_ended() -> bool:
        nonlocal largest
        largest = max([largest, *(path.stat().st_size for path in lab.directory.glob("pod_*.log"))])
        return log_lines(lab, "web", "--tail", "1") == ["the end"]

    wait_for(has_ended, "the end")
    assert 0 < largest <= MAX_BYTES
    lab.run("delete", "pod", "web")

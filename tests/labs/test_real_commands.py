"""Containers with commands of this machine: what they find, what is heard of them, and how they
end.
"""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

from kubenetlab.lab.runtime.container_logs import MAX_BYTES
from tests.labs.lab import Lab, cmdline, run, wait_for
from tests.labs.real_commands import ONE_NODE, SERVES, SERVICE, pod, said, status

LOOKS = """\
  - name: main
    image: anything
    command: [sh, -c, "hostname; echo $WORD; echo $HOME $PATH; ls -a /tmp; touch /tmp/mine /var/log/mine /run/mine && echo own; touch /etc/mine || echo read-only; cat /etc/hosts /etc/resolv.conf; pwd; exec sleep 1000"]
    workingDir: /usr
    env: [{name: WORD, value: hello}]
    readinessProbe: {exec: {command: [sh, -c, "test -f /tmp/mine && test $WORD = hello"]}, periodSeconds: 1}
"""


def test_a_command_has_the_pods_namespaces_and_files_of_its_own(lab: Lab) -> None:
    """Hostname, environment, /etc/hosts and resolv.conf; /tmp, /var and /run are its own and empty,
    all else can only be read.
    """
    lab.up(ONE_NODE + pod("web", LOOKS))
    lines = said(lab, "web")
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


HOMES = """\
  - name: main
    image: anything
    command: [sh, -c, "cat $OWN/server 2>/dev/null; ls -A /root; ls -A /home; ls -A $OWN; touch /root/mine && echo own; exec sleep 1000"]
    env: [{name: OWN, value: %s}]
    readinessProbe: {exec: {command: [test, -f, /root/mine]}, periodSeconds: 1}
"""
IN_HOME = "  - {name: main, image: anything, command: [%s]}\n"


def test_home_directories_are_out_of_sight(lab: Lab) -> None:
    """They are empty and the command's own, also the one of the lab's owner, wherever that is."""
    with tempfile.TemporaryDirectory(dir="/opt") as home:
        program = Path(home, "server")
        program.write_text("#!/bin/sh\nexec sleep 1000\n")
        program.chmod(0o755)
        text = (
            ONE_NODE
            + pod("web", HOMES % home)
            + pod("server", IN_HOME % program, "  restartPolicy: Never\n")
        )
        run(
            "up", "--lab", lab.name, "-f", "-", given=text, before=("env", f"HOME={home}"), status=1
        )
        plain = pod("plain", IN_HOME % program, annotation="")
        run(
            "up",
            "--lab",
            lab.name,
            "-f",
            "-",
            "--real-commands",
            given=plain,
            before=("env", f"HOME={home}"),
            status=1,
        )
        assert lab.pod("plain")["containers"][0]["program"] != "command"
        assert said(lab, "web") == ["own"]
        assert said(lab, "server") == [
            f'exec: "{program}": executable file not found in $PATH: commands do not see {home} of this machine;'
            " copy what they need to a directory such as /opt"
        ]


def test_how_a_command_ends_is_seen(lab: Lab) -> None:
    """Its status and its last words; what is no program says so, and was not started; what it left
    running ends with it.
    """
    ends = "  - {name: main, image: x, command: [sh, -c, 'sleep 1000 & echo bye; exit 3']}\n"
    said = lab.up(
        ONE_NODE
        + pod("once", ends, "  restartPolicy: Never\n")
        + pod("none", "  - {name: main, image: x, command: [no-such-program]}\n"),
        status=1,
    ).err
    missing = 'exec: "no-such-program": executable file not found in $PATH'
    assert "not ready: default/once: Error: container main: exit status 3: bye\n" in said
    assert (
        f"not ready: default/none: CrashLoopBackOff: container main: exit status 127: {missing}\n"
        in said
    )
    ended = status(lab, "once")["state"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (3, "bye")
    last = status(lab, "none")["lastState"]["terminated"]
    assert (last["exitCode"], last["message"]) == (127, missing)
    assert lab.run("logs", "none").out.splitlines()[0] == missing
    shown = {name: lab.run("describe", "pod", name).out for name in ("once", "none")}
    assert "Container main ended: exit status 3: bye" in shown["once"]
    assert f"Error: {missing}" in shown["none"]
    assert "Started container" not in shown["none"]
    assert all(
        "a ping, added by the lab" in text and "(not running)" in text for text in shown.values()
    )
    wait_for(
        lambda: not [pid for pid in lab.pids() if b"sleep\x001000" in cmdline(pid)],
        "an end of what was left behind",
    )


CONFINED = """\
  - name: main
    image: x
    command: [sh, -c, "(mknod /tmp/disk b 8 0 || mount -t tmpfs none /mnt || echo core > /proc/sys/kernel/core_pattern || hostname mine) 2>&1; echo devices; ls /dev; ip address add 192.0.2.1/32 dev lo 2>&1 && echo added; echo end; exec sleep 1000"]
"""
MAY_CONFIGURE = "    securityContext: {capabilities: {add: [NET_ADMIN], drop: [CHOWN]}}\n"


def test_a_command_cannot_reach_the_machine(lab: Lab) -> None:
    """No devices, mounts, settings of the kernel; the pod's network only where the manifest asks
    for that. `up` says what runs.
    """
    told = lab.up(ONE_NODE + pod("web", CONFINED) + pod("router", CONFINED + MAY_CONFIGURE)).err
    assert "Pod default/web (sh), Pod default/router (sh)" in " ".join(told.split())
    lines = said(lab, "web")
    refused, devices = (
        "\n".join(lines[: lines.index("devices")]),
        lines[lines.index("devices") + 1 : lines.index("zero") + 1],
    )
    for what in (
        "mknod: /tmp/disk: Operation not permitted",
        "mount: /mnt: permission denied",
        "core_pattern: Read-only",
        "hostname: ",
    ):
        assert what in refused
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
    assert "added" in said(lab, "router")


STUBBORN = (
    "  - {name: main, image: x, command: [sh, -c, 'trap : TERM; while :; do sleep 0.1; done']}\n"
)
CAREFUL = "  - {name: main, image: x, command: [sh, -c, 'trap \"echo closing; sleep 0.5; echo closed > /dev/shm/x; exit 0\" TERM; while :; do sleep 0.1; done']}\n"


def test_a_pod_waits_for_its_commands_as_long_as_its_grace_period(lab: Lab) -> None:
    """SIGTERM first; who ends is not waited for any longer, who does not is killed when the time is
    over.
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
        "the end of the careful one",
    )
    wait_for(lambda: not lab.get("pods")["items"], "the end of the other")


def test_a_whole_lab_runs_what_it_can(lab: Lab) -> None:
    """--real-commands: what is no program of this machine is stood in for, as without it."""
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
        for entry in lab.seen["pods"]
        if entry["namespace"] == "default"
    }
    assert programs == {"real": "command", "stand-in": "web"}


def test_commands_outlive_the_agent(lab: Lab) -> None:
    """A new agent finds them running, and starts nothing twice."""
    lab.up(ONE_NODE + pod("web", SERVES) + SERVICE)
    before, agent = lab.pod("web")["containers"][0]["pid"], lab.seen["agent_pid"]
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: lab.seen["agent_pid"] != agent, "another agent")
    assert (
        wait_for(
            lambda: lab.pod("web")["containers"][0]["pid"], "what the new agent learns from init"
        )
        == before
    )
    assert status(lab, "web")["restartCount"] == 0
    assert lab.run("ping", "web", "svc:web", "--http", "/", "-o", "json").json["found"] == "answer"


SHORT_LIVED_PODS, SHORT_LIVED_CONTAINERS = 20, 25


def short_lived(pods: int, containers: int) -> str:
    """Pods of which each container ends at once, with an exit status of its own."""
    specs = "".join(
        f"  - {{name: c{number}, image: anything, command: [sh, -c, 'exit {number}']}}\n"
        for number in range(1, containers + 1)
    )
    return "".join(
        pod(f"brief-{number}", specs, "  restartPolicy: Never\n") for number in range(pods)
    )


def ended_as_they_should(lab: Lab, pods: int, containers: int) -> bool:
    """True when the exit status of every container is known and right."""
    found = [
        one["status"]
        for one in lab.get("pods")["items"]
        if one["metadata"]["name"].startswith("brief-")
    ]
    codes = [
        [
            status["state"].get("terminated", {}).get("exitCode")
            for status in one["containerStatuses"]
        ]
        for one in found
    ]
    return [one["phase"] for one in found] == ["Failed"] * pods and codes == [
        list(range(1, containers + 1))
    ] * pods


def test_no_exit_of_a_short_lived_container_is_lost(lab: Lab) -> None:
    """A command may end before it is known to have begun."""
    lab.up(ONE_NODE + short_lived(SHORT_LIVED_PODS, SHORT_LIVED_CONTAINERS), status=1)
    wait_for(
        lambda: ended_as_they_should(lab, SHORT_LIVED_PODS, SHORT_LIVED_CONTAINERS), "all exits"
    )


WAITS = """\
  - name: main
    image: anything
    command: [sh, -c, "until [ -e /tmp/go ]; do sleep 0.02; done; echo done; exit 3"]
"""


def test_an_exit_that_the_agent_did_not_store_is_reported_by_the_next_one(lab: Lab) -> None:
    """The agent is stopped while a command ends, and killed before it can have read of it."""
    lab.up(ONE_NODE + pod("work", WAITS, "  restartPolicy: Never\n"))
    (process,) = [container["pid"] for container in lab.pod("work")["containers"]]
    place = Path(f"/proc/{lab.seen['init_pid']}/root/proc/{process}")
    (agent,) = lab.pids(f"kubenetlab {lab.name} agent")
    os.kill(agent, signal.SIGSTOP)
    Path(place, "root/tmp/go").touch()
    wait_for(lambda: not place.exists(), "the end of the command")
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: lab.get("pod", "work")["status"]["phase"] == "Failed", "the exit")
    assert status(lab, "work")["state"]["terminated"]["exitCode"] == 3
    assert status(lab, "work")["restartCount"] == 0
    assert said(lab, "work") == ["done"]


PRINTS = """\
  - name: main
    image: anything
    command: [sh, -c, "yes | head -c 400000000; echo the end; exec sleep 1000"]
"""


def test_much_output_takes_little_memory(lab: Lab) -> None:
    """The log lies in memory: it is begun anew while it is written, not some time later.

    The lab answers meanwhile.
    """
    lab.up(ONE_NODE + pod("web", PRINTS))
    largest = 0

    def is_over() -> bool:
        nonlocal largest
        largest = max([largest, *(path.stat().st_size for path in lab.directory.glob("pod_*.log"))])
        return said(lab, "web", "--tail", "1") == ["the end"]

    wait_for(is_over, "the end")
    assert 0 < largest <= MAX_BYTES
    lab.run("delete", "pod", "web")

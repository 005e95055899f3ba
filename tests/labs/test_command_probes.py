"""Probes of containers that run commands of this machine."""

from __future__ import annotations

from pathlib import Path

from tests.labs.lab import Lab, cmdline, wait_for
from tests.labs.real_commands import ONE_NODE, SERVES, SERVICE, pod, probe_files, said, status


def test_a_server_is_reached_probed_and_started_anew(lab: Lab) -> None:
    """By its Service like any other; an exec probe that fails ends it, and the next one finds its
    port free.
    """
    lab.up(ONE_NODE + pod("web", SERVES) + SERVICE)
    web = lab.pod("web")
    assert "Directory listing" in lab.run("ping", "web", "svc:web", "--http", "/").out
    assert lab.run("ping", "-o", "json").json["ok"]
    (first,) = [container["pid"] for container in web["containers"]]
    root = f"/proc/{lab.seen['init_pid']}/root/proc/{first}/root"
    Path(root, "tmp/ill").touch()
    wait_for(
        lambda: status(lab, "web")["restartCount"] == 1 and status(lab, "web")["ready"],
        "a second run",
    )
    ended = status(lab, "web")["lastState"]["terminated"]
    assert ended["message"].startswith(
        "Liveness probe failed: command ['test', '!', '-e', '/tmp/ill'] ended with 1"
    )
    (second,) = [container["pid"] for container in lab.pod("web")["containers"]]
    assert second != first
    assert "Address already in use" not in "\n".join(said(lab, "web"))


SICKLY = """\
  - name: main
    image: python
    command: [python3, -m, http.server, "8000"]
    readinessProbe: {exec: {command: [test, "!", -e, /tmp/ill]}, periodSeconds: 1, failureThreshold: 1}
"""


def test_an_unready_pod_leaves_its_service_and_comes_back(lab: Lab) -> None:
    """As long as the probe fails nobody is sent there: with no other pod the Service refuses."""
    lab.up(ONE_NODE + pod("web", SICKLY) + SERVICE)
    web = lab.pod("web")
    target = ("TCP", lab.service("web")["cluster_ips"][0], 80)
    wait_for(
        lambda: lab.ask(web, target)[0].error != "refused",
        "the command to listen, after its probe has succeeded",
    )
    ill = Path(f"/proc/{lab.seen['init_pid']}/root/proc/{web['containers'][0]['pid']}/root/tmp/ill")
    ill.touch()
    wait_for(lambda: lab.ask(web, target)[0].error == "refused", "a Service without endpoints")
    assert [endpoint["ready"] for endpoint in lab.service("web")["endpoints"]] == [False]
    ill.unlink()
    wait_for(lambda: lab.ask(web, target)[0].error != "refused", "the endpoint's return")
    assert status(lab, "web")["restartCount"] == 0


HANGS = "  - {name: main, image: x, command: [sleep, '1000'], readinessProbe: {exec: {command: [sleep, '2000']}, periodSeconds: 1}}\n"


def test_a_probe_that_hangs_is_ended(lab: Lab) -> None:
    """When its time is over, and when its container goes; it failed."""
    lab.up(ONE_NODE + pod("web", HANGS), status=1)
    wait_for(
        lambda: "timed out after 1 s" in lab.run("describe", "pod", "web").out,
        "the probe's failure",
    )
    hanging = [pid for pid in lab.pids() if b"sleep\x002000" in cmdline(pid)]
    assert len(hanging) <= 1
    lab.run("delete", "pod", "web")
    wait_for(
        lambda: not [pid for pid in lab.pids() if b"sleep" in cmdline(pid)],
        "an end of what was left behind",
    )
    assert probe_files(lab) == []


ALIKE = """\
  - name: main
    image: x
    workingDir: /usr
    securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN]}}
    command: [sh, -c, "until [ -s /tmp/asked ]; do sleep 0.1; done; pwd; grep Cap /proc/self/status; cat /tmp/asked; echo end; exec sleep 1000"]
    readinessProbe: {exec: {command: [sh, -c, "(pwd; grep Cap /proc/self/status) > /tmp/new; mv /tmp/new /tmp/asked"]}, periodSeconds: 1}
"""


def test_a_probe_runs_as_its_container_does(lab: Lab) -> None:
    """In its working directory, and with its capabilities: a probe shall have no more rights than
    the container.
    """
    lab.up(ONE_NODE + pod("web", ALIKE))
    *lines, _ = wait_for(
        lambda: lines if (lines := said(lab, "web"))[-1:] == ["end"] else [], "a probe"
    )
    own, probes = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    assert own[0] == "/usr"
    assert "CapEff:\t0000000000001000" in own
    assert own == probes


PATIENT = HANGS.replace("periodSeconds: 1", "periodSeconds: 1, timeoutSeconds: 1000")


def test_a_probe_ends_with_the_node_agent_that_runs_it(lab: Lab) -> None:
    """Its successor runs another one: without an end the probes of all node agents so far would
    hang in the container.
    """
    lab.up(ONE_NODE + pod("web", PATIENT), "--no-wait")

    def hanging() -> list[int]:
        return [pid for pid in lab.pids() if b"sleep\x002000" in cmdline(pid)]

    (first,) = wait_for(hanging, "a probe")
    lab.kill("node-agent-0")
    wait_for(lambda: hanging() and first not in hanging(), "another probe in place of the first")
    assert len(hanging()) == len(probe_files(lab)) == 1


TALKS = """\
  - name: main
    image: x
    command: [sh, -c, "while [ $(cat /tmp/asked | wc -l) -lt 3 ]; do sleep 0.1; done 2>/dev/null; echo enough; exec sleep 1000"]
    readinessProbe: {exec: {command: [sh, -c, "echo words | tee -a /tmp/asked; false"]}, periodSeconds: 1}
"""


def test_probes_that_print_leave_nothing(lab: Lab) -> None:
    """Neither their output nor the times of it: a probe is asked for weeks, and its files would lie
    in memory.
    """
    lab.up(ONE_NODE + pod("web", TALKS), "--no-wait")
    wait_for(lambda: said(lab, "web") == ["enough"], "three probes")
    wait_for(lambda: probe_files(lab) == [], "a moment without a probe")


ENDLESS = """\
  - name: main
    image: x
    command:
    - python3
    - -c
    - |
      import socket, threading
      def answer(client):
          try:
              client.recv(65536)
              client.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
              while True:
                  client.sendall(b"x" * 65536)
          except OSError:
              pass
      server = socket.create_server(("", 8080))
      while True:
          threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
    readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
"""


def test_a_probe_reads_no_endless_answer(lab: Lab) -> None:
    """The head and 10 KB of the body say enough, as to a kubelet."""
    lab.up(ONE_NODE + pod("web", ENDLESS))
    assert status(lab, "web")["ready"]

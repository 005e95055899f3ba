"""Probes of containers that run commands of this machine."""

from __future__ import annotations

from pathlib import Path

from tests.labs.lab import Lab, cmdline, wait_for
from tests.labs.real_commands import ONE_NODE, SERVES, SERVICE, log_lines, pod, probe_files, status


def test_a_failed_exec_probe_restarts_a_server(lab: Lab) -> None:
    """The server is reached through its Service.

    The next run of the container finds its port free.
    """
    lab.up(ONE_NODE + pod("web", SERVES) + SERVICE)
    web = lab.pod("web")
    assert "Directory listing" in lab.run("ping", "web", "svc:web", "--http", "/").out
    assert lab.run("ping", "-o", "json").json["ok"]
    (first,) = [container["pid"] for container in web["containers"]]
    root = f"/proc/{lab.inspected['init_pid']}/root/proc/{first}/root"
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
    assert "Address already in use" not in "\n".join(log_lines(lab, "web"))


CONTROLLED_READINESS = """\
  - name: main
    image: python
    command: [python3, -m, http.server, "8000"]
    readinessProbe:
      exec: {command: [test, "!", -e, /tmp/ill]}
      periodSeconds: 1
      failureThreshold: 1
"""


def test_an_unready_pod_leaves_its_service_and_comes_back(lab: Lab) -> None:
    """While the probe fails, the Service has no ready endpoint and refuses."""
    lab.up(ONE_NODE + pod("web", CONTROLLED_READINESS) + SERVICE)
    web = lab.pod("web")
    target = ("TCP", lab.service("web")["cluster_ips"][0], 80)
    wait_for(
        lambda: lab.ask(web, target)[0].error != "refused",
        "the command to listen, after its probe has succeeded",
    )
    ill = Path(
        f"/proc/{lab.inspected['init_pid']}/root/proc/{web['containers'][0]['pid']}/root/tmp/ill"
    )
    ill.touch()
    wait_for(lambda: lab.ask(web, target)[0].error == "refused", "a Service without endpoints")
    assert [endpoint["ready"] for endpoint in lab.service("web")["endpoints"]] == [False]
    ill.unlink()
    wait_for(lambda: lab.ask(web, target)[0].error != "refused", "the endpoint's return")
    assert status(lab, "web")["restartCount"] == 0


HANGS = """\
  - name: main
    image: x
    command: [sleep, '1000']
    readinessProbe: {exec: {command: [sleep, '2000']}, periodSeconds: 1}
"""


def test_a_hanging_probe_is_killed(lab: Lab) -> None:
    """It counts as failed after its timeout, and is also killed with its container."""
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
        "the end of all processes",
    )
    assert probe_files(lab) == []


SELF_INSPECTING = """\
  - name: main
    image: x
    workingDir: /usr
    securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN]}}
    command:
    - sh
    - -c
    - >-
      until [ -s /tmp/probed ]; do sleep 0.1; done;
      pwd; grep Cap /proc/self/status; cat /tmp/probed; echo end; exec sleep 1000
    readinessProbe:
      exec:
        command:
        - sh
        - -c
        - (pwd; grep Cap /proc/self/status) > /tmp/new; mv /tmp/new /tmp/probed
      periodSeconds: 1
"""


def test_a_probe_has_the_working_directory_and_capabilities_of_its_container(lab: Lab) -> None:
    """A probe must not have more privileges than the container."""
    lab.up(ONE_NODE + pod("web", SELF_INSPECTING))
    *lines, _ = wait_for(
        lambda: lines if (lines := log_lines(lab, "web"))[-1:] == ["end"] else [], "a probe"
    )
    of_container, of_probe = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    assert of_container[0] == "/usr"
    assert "CapEff:\t0000000000001000" in of_container
    assert of_container == of_probe


HANGS_FOR_LONG = HANGS.replace("periodSeconds: 1", "periodSeconds: 1, timeoutSeconds: 1000")


def test_a_running_probe_ends_with_its_node_agent(lab: Lab) -> None:
    """The next node agent runs its own probe.

    Otherwise the probes of all former node agents would hang in the container.
    """
    lab.up(ONE_NODE + pod("web", HANGS_FOR_LONG), "--no-wait")

    def hanging() -> list[int]:
        return [pid for pid in lab.pids() if b"sleep\x002000" in cmdline(pid)]

    (first,) = wait_for(hanging, "a probe")
    lab.kill("node-agent-0")
    wait_for(lambda: hanging() and first not in hanging(), "another probe in place of the first")
    assert len(hanging()) == len(probe_files(lab)) == 1


PRINTING = """\
  - name: main
    image: x
    command:
    - sh
    - -c
    - >-
      while [ $(cat /tmp/probed | wc -l) -lt 3 ]; do sleep 0.1; done 2>/dev/null;
      echo enough; exec sleep 1000
    readinessProbe:
      exec: {command: [sh, -c, "echo words | tee -a /tmp/probed; false"]}
      periodSeconds: 1
"""


def test_the_output_of_probes_is_removed(lab: Lab) -> None:
    """A probe may run for weeks, and its files occupy memory."""
    lab.up(ONE_NODE + pod("web", PRINTING), "--no-wait")
    wait_for(lambda: log_lines(lab, "web") == ["enough"], "three probes")
    wait_for(lambda: probe_files(lab) == [], "a moment without a probe")


ENDLESS_RESPONSE = """\
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


def test_a_probe_reads_only_the_beginning_of_a_response(lab: Lab) -> None:
    """It reads the head and 10 KB of the body, like a kubelet."""
    lab.up(ONE_NODE + pod("web", ENDLESS_RESPONSE))
    assert status(lab, "web")["ready"]

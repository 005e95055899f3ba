"""How pods end in a lab: hooks run, servers go on meanwhile, and what turns unready leaves the
serving endpoints.
"""

from __future__ import annotations

from typing import Any

from tests.clusters import ONE_NODE, pod
from tests.labs.lab import Lab, wait_for


def server(
    fields: str = "", *, image: str = "agnhost, args: [netexec]", meta: str = "", more: str = ""
) -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata: {{name: server, labels: {{app: server}}{meta}}}
spec: {{containers: [{{name: main, image: {image}, ports: [{{containerPort: 8080}}]{fields}}}]{more}}}
---
"""


SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
"""
REAL = ', annotations: {kubenetlab.dev/real-commands: "true"}'
READY = ", readinessProbe: {httpGet: {port: 8080, path: /readyz}, periodSeconds: 1, failureThreshold: 1}"


def endpoints(lab: Lab) -> list[dict[str, bool]]:
    """The conditions of the Service's endpoints."""
    pieces = lab.get("endpointslices", "-l", "kubernetes.io/service-name=server")["items"]
    return [endpoint["conditions"] for piece in pieces for endpoint in piece.get("endpoints", ())]


def events(lab: Lab) -> list[tuple[str, str]]:
    return [(event["reason"], event["message"]) for event in lab.get("events")["items"]]


def restarts(lab: Lab) -> int:
    (found,) = [
        found for found in lab.get("pods")["items"] if found["metadata"]["name"] == "server"
    ]
    return int(found["status"]["containerStatuses"][0].get("restartCount", 0))


def is_gone(lab: Lab) -> bool:
    return not any(found["name"] == "server" for found in lab.seen["pods"])


def asks(lab: Lab) -> Any:
    """A client, and the Service's address."""
    return lab.pod("client"), ("TCP", lab.service("server")["cluster_ips"][0], 80)


TERMINATING = {"ready": False, "serving": True, "terminating": True}
UNREADY = {"ready": False, "serving": False, "terminating": True}


def test_a_pod_serves_while_its_pre_stop_hook_runs(lab: Lab) -> None:
    """Alone, it is what the Service falls back to; then it is gone, also when the agent dies
    meanwhile.
    """
    lab.up(
        ONE_NODE + pod("client") + SERVICE + server(", lifecycle: {preStop: {sleep: {seconds: 6}}}")
    )
    lab.run("delete", "pod", "server", "--no-wait")
    wait_for(lambda: endpoints(lab) == [TERMINATING], "its endpoint to terminate")
    assert lab.ask(*asks(lab))[0].who == "server"
    lab.kill("agent")
    assert "Terminating" in lab.run("get", "pod", "server").out
    wait_for(lambda: is_gone(lab), "the pod to be gone")
    wait_for(lambda: lab.ask(*asks(lab))[0].error == "refused", "the Service to refuse")
    assert lab.run("diff").status == 0


def test_a_server_that_turns_unready_after_sigterm_leaves_the_endpoints(lab: Lab) -> None:
    """`netexec --delay-shutdown` serves on, unready: terminating stays, serving is false, and no
    rule leads there.
    """
    waits = 'agnhost, args: [netexec, "--delay-shutdown=7"]'
    lab.up(ONE_NODE + pod("client") + SERVICE + server(READY, image=waits))
    place = lab.pod("server")
    direct = ("TCP", place["addresses"][0], 8080)
    lab.run("delete", "pod", "server", "--no-wait")
    wait_for(lambda: endpoints(lab) == [UNREADY], "its endpoint to serve no more")
    assert lab.ask(lab.pod("client"), direct)[0].who == "server"  # it is there still
    wait_for(lambda: lab.ask(*asks(lab))[0].error == "refused", "the Service to refuse")
    wait_for(lambda: is_gone(lab), "the pod to be gone")


SIGNALS = """\
import http.server, signal, sys, threading
unready = False
def terminate(number, frame):
    global unready
    unready = True
    print('got SIGTERM', flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/slowly': threading.Event().wait(4)
        self.send_response(503 if unready and self.path == '/readyz' else 200)
        self.end_headers()
        self.wfile.write(b'server')
    def log_message(self, *words): print(self.path, flush=True)
signal.signal(signal.SIGTERM, terminate)
http.server.ThreadingHTTPServer(('', 8080), Handler).serve_forever()
"""


def test_hooks_of_a_real_server(lab: Lab) -> None:
    """postStart by HTTP, preStop by a command beside it; SIGTERM when that is over; SIGKILL when
    the grace period is.
    """
    hooks = ", lifecycle: {postStart: {exec: {command: [sleep, '1']}}, preStop: {httpGet: {port: 8080, path: /stopping}}}"
    command = f"python, command: [python3, -u, -c, {SIGNALS!r}]"
    lab.up(
        ONE_NODE
        + pod("client")
        + SERVICE
        + server(
            READY + hooks, image=command, meta=REAL, more=", terminationGracePeriodSeconds: 9"
        ),
        "--timeout",
        "30s",
    )
    assert lab.pod("server")["ready"]
    lab.run("delete", "pod", "server", "--no-wait")
    wait_for(lambda: endpoints(lab) == [UNREADY], "its endpoint to serve no more")
    log = lab.run("logs", "server").out
    assert log.index("/stopping") < log.index("got SIGTERM")
    wait_for(lambda: is_gone(lab), "the pod to be gone")


def test_a_failed_post_start_hook_kills_the_container(lab: Lab) -> None:
    """Nothing listens where it asks.

    FailedPostStartHook, again and again; one that is answered lets the pod be.
    """
    failing = ", lifecycle: {postStart: {httpGet: {port: 9999}}}"
    said = lab.up(ONE_NODE + server(failing), status=1)
    assert "PostStartHook failed: dial tcp" in said.err
    found = events(lab)
    assert any(
        reason == "FailedPostStartHook" and "connection refused" in message
        for reason, message in found
    )
    assert ("Killing", "FailedPostStartHook") in found
    lab.run("delete", "pod", "server")
    lab.up(ONE_NODE + server(failing.replace("9999", "8080")))
    assert any("GET / from" in line for line in lab.run("logs", "server").out.splitlines())


def test_a_container_killed_by_its_liveness_probe_runs_its_pre_stop_hook_first(lab: Lab) -> None:
    """A real server answers the hook and the Service until then, also when the agent dies; then the
    next run begins.
    """
    fields = (
        ", livenessProbe: {tcpSocket: {port: 81}, initialDelaySeconds: 2, periodSeconds: 1, failureThreshold: 1}"
        ", lifecycle: {preStop: {httpGet: {port: 8080, path: /slowly}}}"
    )
    command = f"python, command: [python3, -u, -c, {SIGNALS!r}]"
    text = server(fields, image=command, meta=REAL, more=", terminationGracePeriodSeconds: 8")
    lab.up(ONE_NODE + pod("client") + SERVICE + text, "--timeout", "30s")
    killing = ("Killing", "Container main failed liveness probe, will be restarted")
    wait_for(lambda: killing in events(lab), "the kill to be announced")
    assert restarts(lab) == 0
    lab.kill("agent")
    address = lab.service("server")["cluster_ips"][0]
    assert lab.run("exec", "client", "--", "curl", "-s", f"http://{address}/").out == "server"
    wait_for(lambda: restarts(lab) == 1, "the next run of the container")
    wait_for(
        lambda: "main" not in lab.run("logs", "server", "--previous", status=None).err,
        "the log of the first run",
    )
    printed = lab.run("logs", "server", "--previous").out
    assert printed.split() == ["/", "/slowly", "got", "SIGTERM"]

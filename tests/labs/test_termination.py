"""Termination of pods: hooks run, servers continue meanwhile, and unready pods stop serving."""

from __future__ import annotations

from typing import Any

from tests.clusters import ONE_NODE, pod
from tests.labs.lab import Lab, wait_for


def server(
    fields: str = "", *, image: str = "agnhost, args: [netexec]", meta: str = "", spec: str = ""
) -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata: {{name: server, labels: {{app: server}}{meta}}}
spec:
  {{containers: [{{name: main, image: {image}, ports: [{{containerPort: 8080}}]{fields}}}]{spec}}}
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
READY = (
    ", readinessProbe: {httpGet: {port: 8080, path: /readyz}, "
    "periodSeconds: 1, failureThreshold: 1}"
)


def endpoints(lab: Lab) -> list[dict[str, bool]]:
    """Return the conditions of the Service's endpoints."""
    slices = lab.get("endpointslices", "-l", "kubernetes.io/service-name=server")["items"]
    return [
        endpoint["conditions"]
        for endpoint_slice in slices
        for endpoint in endpoint_slice.get("endpoints", ())
    ]


def events(lab: Lab) -> list[tuple[str, str]]:
    return [(event["reason"], event["message"]) for event in lab.get("events")["items"]]


def restarts(lab: Lab) -> int:
    (server_pod,) = [
        server_pod
        for server_pod in lab.get("pods")["items"]
        if server_pod["metadata"]["name"] == "server"
    ]
    return int(server_pod["status"]["containerStatuses"][0].get("restartCount", 0))


def is_gone(lab: Lab) -> bool:
    return not any(server_pod["name"] == "server" for server_pod in lab.inspected["pods"])


def client_and_service(lab: Lab) -> Any:
    """Return a client, and the Service as its target."""
    return lab.pod("client"), ("TCP", lab.service("server")["cluster_ips"][0], 80)


TERMINATING = {"ready": False, "serving": True, "terminating": True}
UNREADY = {"ready": False, "serving": False, "terminating": True}


def test_a_pod_serves_while_its_pre_stop_hook_runs(lab: Lab) -> None:
    """The Service uses it as its only endpoint.

    Afterwards the pod is removed, although the agent was killed meanwhile.
    """
    lab.up(
        ONE_NODE + pod("client") + SERVICE + server(", lifecycle: {preStop: {sleep: {seconds: 6}}}")
    )
    lab.run("delete", "pod", "server", "--no-wait")
    wait_for(lambda: endpoints(lab) == [TERMINATING], "its endpoint to terminate")
    assert lab.ask(*client_and_service(lab))[0].server == "server"
    lab.kill("agent")
    assert "Terminating" in lab.run("get", "pod", "server").out
    wait_for(lambda: is_gone(lab), "the pod to be gone")
    wait_for(
        lambda: lab.ask(*client_and_service(lab))[0].error == "refused", "the Service to refuse"
    )
    assert lab.run("diff").status == 0


def test_a_server_that_becomes_unready_after_sigterm_stops_serving(lab: Lab) -> None:
    """`netexec --delay-shutdown` continues, unready.

    The endpoint is terminating and not serving, so no rule leads to it.
    """
    waits = 'agnhost, args: [netexec, "--delay-shutdown=7"]'
    lab.up(ONE_NODE + pod("client") + SERVICE + server(READY, image=waits))
    place = lab.pod("server")
    direct = ("TCP", place["addresses"][0], 8080)
    lab.run("delete", "pod", "server", "--no-wait")
    wait_for(lambda: endpoints(lab) == [UNREADY], "its endpoint to serve no more")
    assert lab.ask(lab.pod("client"), direct)[0].server == "server"  # the pod still answers
    wait_for(
        lambda: lab.ask(*client_and_service(lab))[0].error == "refused", "the Service to refuse"
    )
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


def test_hooks_of_a_real_server_run_in_order(lab: Lab) -> None:
    """The postStart hook is a command, and the preStop hook an HTTP request.

    SIGTERM follows the preStop hook, and SIGKILL the end of the grace period.
    """
    hooks = (
        ", lifecycle: {postStart: {exec: {command: [sleep, '1']}}, "
        "preStop: {httpGet: {port: 8080, path: /stopping}}}"
    )
    command = f"python, command: [python3, -u, -c, {SIGNALS!r}]"
    lab.up(
        ONE_NODE
        + pod("client")
        + SERVICE
        + server(
            READY + hooks, image=command, meta=REAL, spec=", terminationGracePeriodSeconds: 9"
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


def test_a_failed_post_start_hook_kills_its_container(lab: Lab) -> None:
    """The event is FailedPostStartHook.

    A hook that gets an answer has no effect on the container.
    """
    failing = ", lifecycle: {postStart: {httpGet: {port: 9999}}}"
    result = lab.up(ONE_NODE + server(failing), status=1)
    assert "PostStartHook failed: dial tcp" in result.err
    event_list = events(lab)
    assert any(
        reason == "FailedPostStartHook" and "connection refused" in message
        for reason, message in event_list
    )
    assert ("Killing", "FailedPostStartHook") in event_list
    lab.run("delete", "pod", "server")
    lab.up(ONE_NODE + server(failing.replace("9999", "8080")))
    assert any("GET / from" in line for line in lab.run("logs", "server").out.splitlines())


def test_the_pre_stop_hook_runs_before_a_liveness_restart(lab: Lab) -> None:
    """A real server answers the hook and the Service until then.

    The agent may be killed meanwhile. Then the container restarts.
    """
    fields = (
        ", livenessProbe: {tcpSocket: {port: 81}, initialDelaySeconds: 2, "
        "periodSeconds: 1, failureThreshold: 1}"
        ", lifecycle: {preStop: {httpGet: {port: 8080, path: /slowly}}}"
    )
    command = f"python, command: [python3, -u, -c, {SIGNALS!r}]"
    text = server(fields, image=command, meta=REAL, spec=", terminationGracePeriodSeconds: 8")
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

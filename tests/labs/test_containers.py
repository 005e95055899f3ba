"""Programs in pods and their answers, and `exec` and `shell` inside."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab

MANIFEST = """\
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  containers: [{name: main, image: agnhost, args: [netexec]}]
---
apiVersion: v1
kind: Pod
metadata: {name: who}
spec:
  hostname: my-name
  containers: [{name: main, image: agnhost, args: [serve-hostname, --port=9376]}]
---
apiVersion: v1
kind: Pod
metadata: {name: porter}
spec:
  containers:
  - name: main
    image: agnhost
    args: [porter]
    env:
    - {name: SERVE_PORT_80, value: "eighty"}
    - {name: SERVE_PORT_81, value: "eighty-one"}
---
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  containers: [{name: main, image: hashicorp/http-echo, args: [-text=hello there, -listen=:5678]}]
---
apiVersion: v1
kind: Pod
metadata: {name: nginx}
spec:
  containers:
  - name: main
    image: "nginx:1.27"
    ports: [{containerPort: 80}, {containerPort: 443, protocol: UDP}]
---
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: other}}
spec:
  containers: [{name: main, image: example.com/shop/other:3, ports: [{containerPort: 3000}]}]
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec:
  selector: {app: other}
  ports: [{name: declared, port: 3000}, {name: wrong, port: 80, targetPort: 4000}]
---
apiVersion: v1
kind: Pod
metadata: {name: undeclared, labels: {app: undeclared}}
spec:
  containers: [{name: main, image: example.com/shop/other:3}]
---
apiVersion: v1
kind: Service
metadata: {name: undeclared}
spec: {selector: {app: undeclared}, ports: [{port: 80, targetPort: 5000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stated, annotations: {kubenetlab.dev/listen: "6000"}}
spec:
  containers: [{name: main, image: example.com/shop/other:3, ports: [{containerPort: 3000}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: connector}
spec:
  restartPolicy: Never
  containers: [{name: main, image: agnhost, args: [connect, "other.default:3000", --timeout=3s]}]
---
apiVersion: v1
kind: Pod
metadata: {name: refused}
spec:
  restartPolicy: Never
  containers: [{name: main, image: agnhost, args: [connect, "other:4711", --timeout=3s]}]
---
apiVersion: v1
kind: Pod
metadata: {name: idle}
spec:
  containers: [{name: main, image: busybox, command: [sleep, infinity]}]
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    for lab in new_lab():
        ended = lab.up(MANIFEST, status=1)
        assert "default/refused" in ended.err
        assert "REFUSED" in ended.err
        yield lab


def get(lab: Lab, name: str, port: int, path: str = "/", status: int = 200) -> str:
    """Return the body of a pod's HTTP response to another pod."""
    report = lab.run(
        "ping",
        "client",
        name,
        "--tcp",
        str(port),
        "--http",
        path,
        "-o",
        "json",
        status=int(status >= 400),
    ).json
    first, _, rest = report["body"].partition("\n")
    code, _, body = str(rest).partition(": ")
    assert (report["found"], code) == ("answer", str(status)), report
    first_line = f"default/{name} answered and saw {lab.pod('client')['addresses'][0]}:"
    assert first.startswith(first_line)
    return body


@pytest.mark.parametrize(
    ("name", "port", "path", "answer"),
    [
        ("client", 8080, "/hostname", "client"),
        ("who", 9376, "/", "my-name"),
        ("porter", 80, "/", "eighty"),
        ("porter", 81, "/anything", "eighty-one"),
        ("echo", 5678, "/", "hello there"),
        ("other", 3000, "/hostname", "other"),
        ("undeclared", 5000, "/echo?msg=hi", "hi"),
        ("stated", 6000, "/hostname", "stated"),
    ],
)
def test_built_in_programs_answer_like_their_images(
    running: Lab, name: str, port: int, path: str, answer: str
) -> None:
    """The programs are those of agnhost and http-echo.

    Unknown images listen on declared ports, or otherwise on the target ports of Services.
    """
    assert get(running, name, port, path) == answer


def test_only_declared_or_assumed_ports_listen(running: Lab) -> None:
    """A declared port excludes target ports of Services; the annotation excludes declared ports.

    `describe` names assumed ports.
    """
    for name, port in (("other", 4000), ("stated", 3000), ("stated", 4000)):
        (answer,) = running.ask(
            running.pod("client"), ("TCP", running.pod(name)["addresses"][0], port)
        )
        assert answer.error == "refused", (name, port)
    assumed = "5000  (5000/tcp assumed: target port of Services; the container declares no port)"
    assert assumed in running.run("describe", "pod", "undeclared").out
    assert "assumed" not in running.run("describe", "pod", "other").out


def test_nginx_serves_its_welcome_page(running: Lab) -> None:
    """The page is on port 80; other paths are not found."""
    assert "<h1>Welcome to nginx!</h1>" in get(running, "nginx", 80)
    assert "404 Not Found" in get(running, "nginx", 80, "/missing", status=404)


def test_nginx_answers_datagrams_to_a_declared_port(running: Lab) -> None:
    """Such a port is 443/UDP of HTTP/3."""
    (answer,) = running.ask(
        running.pod("client"), ("UDP", running.pod("nginx")["addresses"][0], 443)
    )
    assert not answer.error


def test_netexec_dial_sends_from_the_pod(running: Lab) -> None:
    """The server sees the dialling pod, which resolves names itself."""
    client_address = running.pod("client")["addresses"][0]
    for protocol, port, request in (("http", 3000, "clientip"), ("udp", 8081, "clientip")):
        host = "other" if protocol == "http" else client_address
        path = f"/dial?host={host}&port={port}&protocol={protocol}&request={request}"
        (answer,) = json.loads(get(running, "client", 8080, path))["responses"]
        assert answer.rpartition(":")[0] == client_address
    response = get(
        running, "client", 8080, "/dial?host=nowhere.example&port=80&request=hostname", status=400
    )
    assert "nowhere.example" in response


def test_agnhost_connect_reports_the_result_by_its_exit_status(running: Lab) -> None:
    """The status is 0 with Completed, or 1 with REFUSED in the log and the message."""
    pods = {pod["metadata"]["name"]: pod["status"] for pod in running.get("pods")["items"]}
    assert pods["connector"]["phase"] == "Succeeded"
    ended = pods["refused"]["containerStatuses"][0]["state"]["terminated"]
    assert (pods["refused"]["phase"], ended["exitCode"]) == ("Failed", 1)
    assert "REFUSED" in running.run("logs", "refused").out


def test_logs_contain_requests_and_client_addresses(running: Lab) -> None:
    """The address is the one that the server saw; --tail limits the output."""
    get(running, "other", 3000, "/a-path")
    client_address = running.pod("client")["addresses"][0]
    lines = running.run("logs", "other").out.splitlines()
    assert any(f"GET /a-path from {client_address}:" in line for line in lines)
    assert running.run("logs", "other", "--tail", "1").out.splitlines() == lines[-1:]


def test_a_built_in_program_serves_http_and_grpc_health_checks_on_one_port(lab: Lab) -> None:
    """It recognizes the protocol by the first bytes.

    Other gRPC methods are unimplemented.
    """
    import h2.config
    import h2.connection
    import h2.events

    lab.up(POD_ON_5000)
    pod = lab.pod("server")
    (answer,) = lab.ask(pod, ("TCP", pod["addresses"][0], 5000))
    assert answer.server == "server"
    protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    protocol.initiate_connection()
    for stream, path in ((1, "/grpc.health.v1.Health/Check"), (3, "/shop.Cart/Add")):
        head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
            ("content-type", "application/grpc"),
        ]
        protocol.send_headers(stream, head)
        protocol.send_data(stream, bytes(5), end_stream=True)
    request = protocol.data_to_send().hex()
    response = bytes.fromhex(
        lab.inside(pod, "python3", "-S", "-c", _GRPC_CLIENT, pod["addresses"][0], request).strip()
    )
    headers: dict[int, dict[str, str]] = {1: {}, 3: {}}
    for event in protocol.receive_data(response):
        if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            headers[event.stream_id] |= {str(name): str(value) for name, value in event.headers}
        elif isinstance(event, h2.events.DataReceived):
            headers[event.stream_id]["data"] = event.data.hex()
    assert (headers[1]["grpc-status"], headers[1]["data"]) == ("0", "00000000020801")
    assert (headers[3]["grpc-status"], headers[3]["grpc-message"]) == (
        "12",
        "unknown method /shop.Cart/Add",
    )


POD_ON_5000 = """\
apiVersion: v1
kind: Pod
metadata: {name: server}
spec: {containers: [{name: main, image: some/server, ports: [{containerPort: 5000}]}]}
"""

_GRPC_CLIENT = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 5000), 2)
connection.sendall(bytes.fromhex(sys.argv[2]))
connection.shutdown(socket.SHUT_WR)
print(connection.makefile("rb").read().hex())
"""


# --- inside ---


def inside(lab: Lab, target: str, *command: str) -> str:
    return lab.run("exec", target, "--", *command).out.strip()


def test_a_program_inside_a_pod_sees_only_the_pod(running: Lab) -> None:
    """This covers hostname, hosts, resolv.conf, links, processes and /sys."""
    pod = running.pod("who")
    (address,) = pod["addresses"]
    assert inside(running, "who", "hostname") == "my-name"
    assert f"{address}\tmy-name" in inside(running, "who", "cat", "/etc/hosts")
    assert inside(running, "who", "cat", "/etc/resolv.conf").splitlines() == [
        "search default.svc.cluster.local svc.cluster.local cluster.local",
        "nameserver 10.96.0.10",
        "options ndots:5",
    ]
    links = json.loads(inside(running, "who", "ip", "-j", "addr"))
    assert {link["ifname"] for link in links} == {"lo", "eth0"}
    assert address in [entry["local"] for link in links for entry in link["addr_info"]]
    assert sorted(inside(running, "who", "ls", "/sys/class/net").split()) == ["eth0", "lo"]
    processes = inside(running, "who", "ps", "-A", "-o", "args=").splitlines()
    assert f"{running.name}/pod/default/who/" in processes[0]
    assert len(processes) == 2  # pause and ps


def test_nodes_and_external_hosts_can_be_entered(running: Lab) -> None:
    """The targets node: and ext: have names of their own."""
    assert inside(running, "node:worker", "hostname") == "worker"
    assert inside(running, "ext:client", "hostname") == "client"
    assert "cbr0" in inside(running, "node:worker", "ls", "/sys/class/net")


def test_a_real_program_resolves_names_with_the_pods_dns(running: Lab) -> None:
    """The resolver of libc finds short, qualified and whole names.

    The machine's resolver is not used.
    """
    address = running.service("other")["cluster_ips"][0]
    for name in ("other", "other.default", "other.default.svc.cluster.local"):
        assert inside(running, "client", "getent", "hosts", name).split()[0] == address
    assert (
        inside(running, "client", "getent", "hosts", "kube-dns.kube-system").split()[0]
        == "10.96.0.10"
    )


def test_exec_returns_the_exit_status_of_the_program(running: Lab) -> None:
    """The status is 127 for a missing program; standard streams are connected."""
    assert running.run("exec", "client", "--", "sh", "-c", "exit 7", status=7).out == ""
    assert (
        "no such program" in running.run("exec", "client", "--", "no-such-program", status=127).err
    )
    assert running.run("exec", "client", "--", "cat", stdin="from outside").out == "from outside"


def test_a_shell_runs_inside_the_pod(running: Lab) -> None:
    """Typed commands run there."""
    assert "my-name" in running.run("shell", "who", stdin="hostname\n").out


def test_names_in_run_netns_refer_to_the_namespaces(running: Lab) -> None:
    """`ip netns exec` works for pods, nodes and hosts."""
    for name, place in (
        ("pod_default_who", running.pod("who")),
        ("node_worker", running.place("nodes", "worker")),
    ):
        by_name = running.inside(
            {"netns": f"/run/netns/{running.name}_{name}"}, "ip", "-o", "-4", "addr"
        )
        assert place["addresses"][0] in by_name

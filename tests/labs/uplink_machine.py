"""A network namespace in the role of the machine, for tests of the uplink."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.labs.lab import Lab, wait_for
from tests.labs.traffic_client import PROGRAM

CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes:
- role: control-plane
- role: worker
  extraPortMappings:
  - {containerPort: 30080, hostPort: 8080}
  - {containerPort: 30081, hostPort: 8081, protocol: UDP}
  - {containerPort: 30080, hostPort: 9090, listenAddress: 127.0.0.1}
networking: {ipFamily: dual}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{name: tcp, port: 80, targetPort: 8080, nodePort: 30080}, {name: udp, port: 81, protocol: UDP, targetPort: 8081, nodePort: 30081}]
"""


MACHINE = {4: "192.0.2.10", 6: "2001:db8:2::10"}


REAL = {4: "192.0.2.1", 6: "2001:db8:2::1"}


SERVERS = f"""
import http.server, socketserver, threading, sys, os, struct
sys.stdout = os.fdopen(1, "w", 1)
class Seen(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = self.client_address[0].removeprefix("::ffff:").encode()
        self.send_response(200); self.send_header("Content-Length", str(len(said))); self.end_headers(); self.wfile.write(said)
    def log_message(self, *_): pass
class Both(http.server.ThreadingHTTPServer):
    address_family = 10
class Names(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        end = data.index(b"\\0", 12) + 5
        found = data[12:end].startswith(b"\\4real\\7example")
        reply = data[:2] + struct.pack(">HHHHH", 0x8180 if found else 0x8183, 1, int(found), 0, 0) + data[12:end]
        sock.sendto(reply + (b"\\xc0\\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([192, 0, 2, 1]) if found else b""), self.client_address)
threading.Thread(target=socketserver.ThreadingUDPServer(("{REAL[4]}", 53), Names).serve_forever, daemon=True).start()
server = Both(("::", 8000), Seen)
print("up", flush=True)
server.serve_forever()
"""
"""On the real network: who asks by HTTP is told his address; one name is known."""


WIRE = f"""
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip link set lo up
ip link add eth0 type veth peer name eth0 netns "$1"
ip address add {MACHINE[4]}/24 dev eth0
ip address add {MACHINE[6]}/64 dev eth0 nodad
ip link set eth0 up
ip route add default via {REAL[4]}
ip -6 route add default via {REAL[6]}
nsenter --net=/proc/"$1"/ns/net sh -c 'ip link set lo up; ip address add {REAL[4]}/24 dev eth0; ip address add {REAL[6]}/64 dev eth0 nodad; ip link set eth0 up'
sysctl -q -w net.ipv6.conf.all.forwarding=1
printf 'nameserver {REAL[4]}\\n' > "$2"
resolv_conf=$(realpath /etc/resolv.conf)
[ -e "$resolv_conf" ] || install -D /dev/null "$resolv_conf"
mount --bind "$2" "$resolv_conf"
"""
"""The machine's own /run is hidden: other machines' commands would find dead labs there and take
their uplinks away, but elsewhere.
"""


class Machine:
    """A namespace that plays the machine."""

    def __init__(self, holder: int, real: int) -> None:
        self.inside = ("nsenter", f"--target={holder}", "--net", "--mount")
        self.real = ("nsenter", f"--net=/proc/{real}/ns/net")

    def said(self, *command: str) -> str:
        return subprocess.run(
            [*self.inside, *command], capture_output=True, text=True, check=True, timeout=30
        ).stdout

    @property
    def state(self) -> dict[str, str]:
        """All that an uplink changes."""
        found = {
            name: self.said(*command)
            for name, command in {
                "rules": ("nft", "list", "ruleset"),
                "routes": ("ip", "route"),
            }.items()
        }
        found["links"] = self.said("ip", "-br", "address")
        # A link may go while it is read.
        found["forwarding"] = self.said(
            "sh",
            "-c",
            "cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/ip_forward 2>/dev/null || true",
        )
        return found

    def ask(self, where: tuple[str, ...], *targets: tuple[str, str, int]) -> list[tuple[str, str]]:
        """(who answers, whom it sees), or (what went wrong, nothing); from the machine or from the
        real network.
        """
        request = json.dumps([[None, targets]])
        done = subprocess.run(
            [*where, *PROGRAM],
            input=request,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        (answers,) = json.loads(done.stdout)
        return [
            (answer.get("who", answer.get("error")), answer.get("seen", [""])[0])
            for answer in answers
        ]


@contextmanager
def running_machine(directory: Path) -> Iterator[Machine]:
    with (
        subprocess.Popen(("unshare", "--net", "sleep", "600")) as real,
        subprocess.Popen(("unshare", "--net", "--mount", "sleep", "600")) as holder,
    ):
        try:
            pids = (real.pid, holder.pid)
            wait_for(
                lambda: (
                    os.readlink("/proc/self/ns/net")
                    not in [os.readlink(f"/proc/{pid}/ns/net") for pid in pids]
                ),
                "namespaces",
            )
            found = Machine(holder.pid, real.pid)
            found.said("sh", "-e", "-c", WIRE, "sh", str(real.pid), str(directory / "resolv.conf"))
            with subprocess.Popen(
                [*found.real, sys.executable, "-c", SERVERS], stdout=subprocess.PIPE, text=True
            ) as servers:
                assert servers.stdout is not None
                assert servers.stdout.readline() == "up\n"
                yield found
                servers.kill()
        finally:
            real.kill()
            holder.kill()


def seen_by_the_real_server(lab: Lab, pod: str, version: int) -> str:
    address = f"[{REAL[6]}]" if version == 6 else REAL[4]
    return lab.run("exec", pod, "--", "curl", "-s", "-m", "2", f"http://{address}:8000/").out


def link_of(machine: Machine) -> str:
    return next(
        word.partition("@")[0] for word in machine.state["links"].split() if word.startswith("knl-")
    )

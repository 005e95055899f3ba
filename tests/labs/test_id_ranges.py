"""An ordinary user with ranges of subordinate ids: programs in a lab can change their user.

nginx, BIRD and tcpdump do so.
"""

from __future__ import annotations

import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import pod
from tests.conftest import LAB_PREFIX
from tests.labs.users import NOBODY, User, UsersLab

CLIENT = pod("client")
RANGE = {"subuid": f"{NOBODY}:300000:65536\n", "subgid": "nobody:400000:65536\n"}
CHANGING_USER = """\
apiVersion: v1
kind: Pod
metadata: {name: real, annotations: {kubenetlab.dev/real-commands: "true"}}
spec:
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "setpriv --reuid=33 --regid=34 --clear-groups id; exec sleep 1000"]
---
"""
# tcpdump opens the link as root and then changes its user; the script prints the new user.
CAPTURE = (
    "tcpdump -Z tcpdump -n -i lo -w - icmp > /dev/null & "
    'while ! grep "^Uid:.$1." /proc/$!/status; do kill -0 $! || exit; done; kill $!; wait $!'
)


def with_range(nobody: User, files: dict[str, str]) -> User:
    """Return the same user with other files in /etc."""
    etc = nobody.home / "etc"
    etc.mkdir()
    for name, text in files.items():
        (etc / name).write_text(text)
    return User(nobody.uid, nobody.home, etc)


def doctor_finding(user: User) -> tuple[str, str, str]:
    """Return (state, detail, remedy) of doctor's finding about other users than root."""
    findings = user.run("doctor", "-o", "json").json
    return next(
        (item["state"], item["detail"], item["remedy"])
        for item in findings
        if item["name"] == "other users"
    )


@pytest.mark.skipif(shutil.which("newuidmap") is None, reason="apt-get install uidmap")
def test_programs_can_change_to_a_user_of_the_range(nobody: User) -> None:
    """This needs newuidmap.

    tcpdump drops root, and a container's command becomes a user of the range.
    """
    user = with_range(nobody, RANGE)
    lab = UsersLab(f"{LAB_PREFIX}r", user)
    try:
        assert doctor_finding(user)[0] == "ok"
        lab.run("up", "-f", "-", stdin=CHANGING_USER + CLIENT)
        init = Path("/proc", str(lab.inspected["init_pid"]))
        assert [line.split() for line in (init / "uid_map").read_text().splitlines()] == [
            ["0", "65534", "1"],
            ["1", "300000", "65536"],
        ]
        assert [line.split() for line in (init / "gid_map").read_text().splitlines()] == [
            ["0", "65534", "1"],
            ["1", "400000", "65536"],
        ]
        assert lab.run("logs", "real").out.startswith(
            "uid=33(www-data) gid=34(backup) groups=34(backup)"
        )
        tcpdump = str(pwd.getpwnam("tcpdump").pw_uid)
        assert lab.run(
            "exec", "client", "--", "timeout", "20", "sh", "-c", CAPTURE, "sh", tcpdump
        ).out.split() == ["Uid:", *[tcpdump] * 4]
        assert lab.run("ping", "-o", "json").json["ok"]
        lab.run("down")
        assert list(nobody.run_directory.glob("kubenetlab/*/")) == []
        (nobody.home / "etc" / "subuid").write_text("")
        assert doctor_finding(user)[:1] == ("optional",), (
            "doctor does not assume that a former result still holds"
        )
    finally:
        lab.down()


SERVERS = ("nginx", "bird2", "libssh-gcrypt-4")
NGINX = """\
user www-data;
daemon off;
pid /tmp/pid;
error_log stderr;
events {}
http {
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi; access_log off;
  server { listen 80; location / { return 200 "nginx serves"; } }
}
"""
BIRD = """\
router id 10.9.9.9;
protocol device {}
protocol kernel { ipv4 { export all; }; }
protocol static { ipv4; route 10.77.0.0/16 blackhole; }
"""
REAL_SERVERS = """\
apiVersion: v1
kind: Pod
metadata: {name: nginx, annotations: {kubenetlab.dev/real-commands: "true"}}
spec:
  containers:
  - name: main
    image: nginx
    command: [PLACE/usr/sbin/nginx, -c, PLACE/nginx.conf]
    ports: [{containerPort: 80}]
    readinessProbe: {httpGet: {port: 80}}
---
apiVersion: v1
kind: Pod
metadata: {name: bird, annotations: {kubenetlab.dev/real-commands: "true"}}
spec:
  containers:
  - name: main
    image: bird
    command: [PLACE/usr/sbin/bird, -f, -u, daemon, -g, daemon, -c, PLACE/bird.conf, -s, /tmp/socket]
    env: [{name: LD_LIBRARY_PATH, value: LIBRARIES}]
    securityContext: {capabilities: {add: [NET_ADMIN, NET_BROADCAST]}}
    readinessProbe:
      exec: {command: [sh, -c, "ip route | grep -q 'blackhole 10.77.0.0/16 proto bird'"]}
      periodSeconds: 1
---
"""


@pytest.fixture
def servers() -> Iterator[Path]:
    """Yield a folder with nginx and BIRD, unpacked where commands in pods see them.

    Installed, they would be services of the machine.
    """
    with tempfile.TemporaryDirectory(dir="/opt") as folder:
        download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *SERVERS]
        if (
            shutil.which("apt-get") is None
            or subprocess.run(download, cwd=folder, capture_output=True, check=False).returncode
        ):
            pytest.skip("apt-get cannot download nginx and bird2")
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder], check=True)
        Path(folder, "nginx.conf").write_text(NGINX)
        Path(folder, "bird.conf").write_text(BIRD)
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(shutil.which("newuidmap") is None, reason="apt-get install uidmap")
def test_servers_that_change_their_user_run_without_root(nobody: User, servers: Path) -> None:
    """Workers of nginx run as www-data, and BIRD as daemon sets routes in its pod."""
    user = with_range(nobody, RANGE)
    lab = UsersLab(f"{LAB_PREFIX}s", user)
    (libraries,) = {str(library.parent) for library in servers.glob("usr/lib/*/libssh-gcrypt.so.4")}
    try:
        text = REAL_SERVERS.replace("PLACE", str(servers)).replace("LIBRARIES", libraries)
        lab.run("up", "-f", "-", "--timeout", "30s", stdin=text + CLIENT)
        address = lab.pod("nginx")["addresses"][0]
        assert (
            lab.run("exec", "client", "--", "curl", "-s", f"http://{address}/").out
            == "nginx serves"
        )
        users = [
            lab.run("exec", name, "--", "ps", "-eo", "user=,comm=").out.split("\n")
            for name in ("nginx", "bird")
        ]
        assert [line.split() for line in users[0] if "nginx" in line] == [
            ["root", "nginx"],
            ["www-data", "nginx"],
        ]
        assert [line.split() for line in users[1] if "bird" in line] == [["daemon", "bird"]]
    finally:
        lab.down()


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({"subuid": "", "subgid": ""}, "/etc/subuid has no range for this user"),
        (
            {"subuid": RANGE["subuid"], "subgid": "somebody:400000:65536\n"},
            "/etc/subgid has no range for this user",
        ),
        (
            RANGE | {"subuid": f"{NOBODY}:{NOBODY}:10\n"},
            "newuidmap: write to uid_map failed: Invalid argument",
        ),
    ],
    ids=["no range", "no groups", "own uid in the range"],
)
@pytest.mark.skipif(shutil.which("newuidmap") is None, reason="apt-get install uidmap")
def test_without_a_range_root_is_the_only_user(
    nobody: User, files: dict[str, str], missing: str
) -> None:
    """Doctor reports it.

    The lab is created nevertheless; a program that changes its user fails.
    """
    user = with_range(nobody, files)
    lab = UsersLab(f"{LAB_PREFIX}r", user)
    try:
        state, detail, remedy = doctor_finding(user)
        assert (state, detail) == (
            "optional",
            f"{missing}: root is the only user in a lab, and programs that change user fail",
        )
        assert remedy.startswith("a line USER:100000:65536 in /etc/subuid")
        lab.run("up", "-f", "-", stdin=CLIENT)
        assert (Path("/proc", str(lab.inspected["init_pid"])) / "uid_map").read_text().split() == [
            "0",
            "65534",
            "1",
        ]
        refused = lab.run(
            "exec",
            "client",
            "--",
            "setpriv",
            "--reuid=33",
            "--regid=33",
            "--clear-groups",
            "true",
            status=None,
        )
        assert refused.status != 0
    finally:
        lab.down()

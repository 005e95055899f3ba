"""agnhost netexec follows its options: TLS with a Secret's certificate, other paths and ports.

Options that are not modelled are reported.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clusters import ONE_NODE, pod
from tests.labs.lab import Lab, wait_for

HTTPS_CLIENT = """\
import http.client, json, socket, ssl, sys
address, port, authority, name, path = sys.argv[1:6]
if authority:
    context = ssl.create_default_context(cafile=authority)
else:
    context = ssl._create_unverified_context()
connection = http.client.HTTPConnection(address, int(port))
plain = socket.create_connection((address, int(port)), 5)
connection.sock = context.wrap_socket(plain, server_hostname=name)
connection.request('GET', path, headers={'X-Team': 'blue'})
answer = connection.getresponse()
print(json.dumps([answer.status, answer.read().decode()]))
"""


def certificate(folder: Path, name: str) -> tuple[str, str]:
    """Return a new self-signed certificate for a name, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl (apt install openssl)")
    cert, key = folder / "tls.crt", folder / "tls.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"),
            *("-keyout", str(key), "-out", str(cert)),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
        ],
        check=True,
        capture_output=True,
    )
    return cert.read_text(), key.read_text()


def server(args: str, volumes: str = "", probe: str = "") -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata: {{name: server, labels: {{app: server}}}}
spec:
  {volumes}
  containers:
  - name: main
    image: agnhost
    args: [netexec, {args}]
    volumeMounts: [{{name: tls, mountPath: /certs}}]
    {probe}
---
"""


def get(
    lab: Lab,
    path: str,
    *,
    authority: Path | str = "",
    name: str = "server.test",
    pod_name: str = "server",
    status: int = 0,
) -> list[object]:
    """Return [status, body] of an HTTPS request to a pod.

    authority: the certificate that the client trusts; it must be valid for the name. Without it,
    any certificate is accepted.
    """
    words = (lab.pod(pod_name)["addresses"][0], "8443", str(authority), name, path)
    out = lab.inside(lab.pod("client"), sys.executable, "-c", HTTPS_CLIENT, *words, status=status)
    return json.loads(out) if out else []


VOLUMES = "volumes: [{name: tls, secret: {secretName: web-tls}}]"
FILES = "--http-port=8443, --tls-cert-file=/certs/tls.crt, --tls-private-key-file=/certs/tls.key"
HTTPS = "readinessProbe: {httpGet: {port: 8443, path: /readyz, scheme: HTTPS}, periodSeconds: 1}"


def test_netexec_serves_tls_with_the_certificate_of_a_secret(lab: Lab, tmp_path: Path) -> None:
    """A client that trusts only this certificate gets an answer, and so does an HTTPS probe.

    A plain HTTP request gets an error message.
    """
    cert, key = certificate(tmp_path, "server.test")
    data = {
        "tls.crt": base64.b64encode(cert.encode()).decode(),
        "tls.key": base64.b64encode(key.encode()).decode(),
    }
    secret = json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": "web-tls"},
            "data": data,
        }
    )
    result = lab.up(ONE_NODE + pod("client") + server(FILES, VOLUMES, HTTPS) + secret)
    assert "volume" not in result.err  # volumes have an effect
    assert get(lab, "/hostname", authority=tmp_path / "tls.crt") == [200, "server"]
    assert get(lab, "/header?key=X-Team", authority=tmp_path / "tls.crt") == [200, "blue"]
    assert get(lab, "/hostname", authority=tmp_path / "tls.crt", name="other.test", status=1) == []
    address, client = lab.pod("server")["addresses"][0], lab.pod("client")
    assert str(get(lab, "/clientip")[1]).startswith(client["addresses"][0])
    plain = (
        f"import socket; s = socket.create_connection(('{address}', 8443)); "
        r"s.sendall(b'GET / HTTP/1.1\r\n\r\n'); print(s.recv(4096))"
    )
    assert "Client sent an HTTP request to an HTTPS server." in lab.inside(
        client, sys.executable, "-c", plain
    )


SHOP = """\
apiVersion: v1
kind: Pod
metadata: {name: shop}
spec:
  containers:
  - name: main
    image: shop
    ports: [{containerPort: 8443}]
    readinessProbe: {httpGet: {port: 8443, scheme: HTTPS}}
---
"""


def test_default_certificates_are_used_without_a_secret(lab: Lab) -> None:
    """The image of agnhost has one for localhost, and unknown images serve HTTP and TLS.

    A missing certificate file ends the program.
    """
    with_default_certificate = server(
        "--http-port=8443, --tls-cert-file=/localhost.crt, --tls-private-key-file=/localhost.key",
        VOLUMES,
        HTTPS,
    )
    lab.up(ONE_NODE + pod("client") + with_default_certificate + SHOP)
    assert get(lab, "/hostname") == [200, "server"]
    assert get(lab, "/hostname", pod_name="shop") == [200, "shop"]
    assert (
        lab.ask(lab.pod("client"), ("TCP", lab.pod("shop")["addresses"][0], 8443))[0].server
        == "shop"
    )
    lab.run("delete", "pod", "server")
    assert (
        "open /certs/tls.crt: no such file or directory"
        in lab.apply(server(FILES, VOLUMES), status=1).err
    )
    lab.run("delete", "pod", "server")
    plain = (
        "readinessProbe: {httpGet: {port: 8080, scheme: HTTPS}, "
        "periodSeconds: 1, failureThreshold: 1}"
    )
    result = lab.apply(server("--http-port=8080", VOLUMES, plain), status=1)
    assert "http: server gave HTTP response to HTTPS client" in result.err


def test_netexec_options_have_their_effect(lab: Lab, tmp_path: Path) -> None:
    """Options that are not modelled are reported with file and line."""
    manifest = tmp_path / "server.yaml"
    args = (
        '"--http-port=80", "--udp-port=99", '
        '"--http-override=/echo?msg=over&code=202", "--nonsense=1"'
    )
    manifest.write_text(ONE_NODE + pod("client") + server(args, VOLUMES))
    result = lab.run("up", "-f", str(manifest))
    line = next(
        number
        for number, text in enumerate(manifest.read_text().splitlines(), 1)
        if "--nonsense" in text
    )
    assert (
        f"warning: {manifest}:{line}  Pod default/server: spec.containers[0].args[4]: "
        "the option --nonsense of agnhost netexec" in result.err
    )
    client, address = lab.pod("client"), lab.pod("server")["addresses"][0]
    fetch = (
        f"import urllib.request as u; a = u.urlopen('http://{address}/anything'); "
        "print(a.status, a.read().decode())"
    )
    wait_for(lambda: lab.inside(client, sys.executable, "-c", fetch) == "202 over\n", "the answer")
    udp_client = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2); "
        f"s.connect(('{address}', 99)); s.send(b'ECHO Hello'); print(s.recv(99)); "
        "s.settimeout(0.2); s.send(b'nothing'); s.recv(99)"
    )
    completed = subprocess.run(
        ["nsenter", f"--net={client['netns']}", sys.executable, "-c", udp_client],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (completed.stdout, "TimeoutError" in completed.stderr) == ("b'hello'\n", True)

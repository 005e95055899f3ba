"""Files of Secrets and ConfigMaps in containers, and the built-in programs that read them."""

from __future__ import annotations

import pytest

from kubenetlab.api.pods import Pod
from kubenetlab.controllers.kubelet.volumes import file_content
from kubenetlab.datapath.containers import files_read, setups_of
from kubenetlab.programs.support.localhost_certificate import CERTIFICATE, KEY
from tests.clusters import applied, pod_named, running, store
from tests.unit.controllers.lifecycle import active_probes, runs_of

DATA = """\
apiVersion: v1
kind: Secret
metadata: {name: web}
stringData: {tls.crt: CERT, tls.key: KEY}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {app.conf: "a=1"}
binaryData: {raw: Ynl0ZXM=}
---
"""


def manifest(
    volumes: str,
    mounts: str,
    args: str = "--tls-cert-file=/certs/tls.crt, --tls-private-key-file=/certs/tls.key",
) -> str:
    container = f"{{name: c0, image: agnhost, args: [netexec, {args}], volumeMounts: [{mounts}]}}"
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{volumes: [{volumes}], "
        f"containers: [{container}]}}\n---\n"
    )


@pytest.mark.parametrize(
    ("volumes", "mounts", "path", "expected"),
    [
        (
            "{name: v, secret: {secretName: web}}",
            "{name: v, mountPath: /certs}",
            "/certs/tls.crt",
            "CERT",
        ),
        (
            "{name: v, secret: {secretName: web}}",
            "{name: v, mountPath: /certs/}",
            "/certs/tls.key",
            "KEY",
        ),
        (
            "{name: v, secret: {secretName: web}}",
            "{name: v, mountPath: /certs}",
            "/certs/other",
            None,
        ),
        (
            "{name: v, secret: {secretName: web}}",
            "{name: v, mountPath: /certs}",
            "/certsx/tls.crt",
            None,
        ),
        (
            "{name: v, secret: {secretName: gone}}",
            "{name: v, mountPath: /certs}",
            "/certs/tls.crt",
            None,
        ),
        (
            "{name: v, secret: {secretName: web, items: [{key: tls.crt, path: own/c}]}}",
            "{name: v, mountPath: /certs}",
            "/certs/own/c",
            "CERT",
        ),
        (
            "{name: v, secret: {secretName: web, items: [{key: tls.crt, path: c}]}}",
            "{name: v, mountPath: /certs}",
            "/certs/tls.key",
            None,
        ),
        (
            "{name: v, secret: {secretName: web}}",
            "{name: v, mountPath: /my.crt, subPath: tls.crt}",
            "/my.crt",
            "CERT",
        ),
        (
            "{name: v, configMap: {name: settings}}",
            "{name: v, mountPath: /etc/app}",
            "/etc/app/app.conf",
            "a=1",
        ),
        (
            "{name: v, configMap: {name: settings}}",
            "{name: v, mountPath: /etc/app}",
            "/etc/app/raw",
            "bytes",
        ),
        (
            "{name: v, projected: {sources: [{configMap: {name: settings}}, {secret: {name: "
            "web}}]}}",
            "{name: v, mountPath: /all}",
            "/all/tls.key",
            "KEY",
        ),
        ("{name: v, emptyDir: {}}", "{name: v, mountPath: /certs}", "/certs/tls.crt", None),
        (
            "{name: v, emptyDir: {}}, {name: w, secret: {secretName: web}}",
            "{name: v, mountPath: /}, {name: w, mountPath: /certs}",
            "/certs/tls.crt",
            "CERT",
        ),
        ("", "{name: v, mountPath: /certs}", "/certs/tls.crt", None),
        ("nonsense", "nonsense", "/certs/tls.crt", None),
    ],
)
def test_a_volume_has_its_files_at_the_mount_path(
    volumes: str, mounts: str, path: str, expected: str | None
) -> None:
    """For Secrets, ConfigMaps and projected volumes; the longest mount path has precedence."""
    cluster = store(DATA + manifest(volumes, mounts))
    pod = pod_named(cluster, "a")
    assert file_content(cluster, pod, pod.spec.containers[0], path) == expected


VOLUME = "{name: v, secret: {secretName: web}}", "{name: v, mountPath: /certs}"


def test_a_program_reads_files_when_its_container_starts() -> None:
    """If a file is missing, the program reports it and exits."""
    cluster = running(store(DATA + manifest(*VOLUME)))
    (run,) = runs_of(cluster)
    assert (run.program, run.options["tls"]) == ("netexec", {"certificate": "CERT", "key": "KEY"})
    assert [str(listener) for listener in run.listeners] == ["8080/tcp", "8081/udp"]
    (missing,) = runs_of(running(store(manifest(*VOLUME))))
    assert (missing.program, missing.options) == (
        "misused",
        {"message": "open /certs/tls.crt: no such file or directory"},
    )
    (late,) = runs_of(applied(running(store(manifest(*VOLUME))), DATA))
    assert late.program == "netexec"
    (keyless,) = runs_of(
        running(store(DATA + manifest(*VOLUME, args="--tls-cert-file=/certs/tls.crt")))
    )
    assert keyless.options == {"message": "open : no such file or directory"}


def test_the_image_of_agnhost_has_a_certificate() -> None:
    """The root directory, which is also the working directory, contains it."""
    for prefix in ("/", ""):
        args = (
            f"--tls-cert-file={prefix}localhost.crt, --tls-private-key-file={prefix}localhost.key"
        )
        (run,) = runs_of(running(store(manifest("", "", args))))
        assert run.options["tls"] == {"certificate": CERTIFICATE, "key": KEY}


def test_only_a_program_with_file_options_reads_files() -> None:
    """No files are looked up for any other pod."""
    cluster = store(manifest(*VOLUME))
    assert [files_read(pod.spec) for pod in cluster.all(Pod) if pod.name != "a"] == [()] * (
        len(cluster.all(Pod)) - 1
    )
    pod = pod_named(cluster, "a")
    assert files_read(pod.spec) == (("c0", "/certs/tls.crt"), ("c0", "/certs/tls.key"))
    assert (
        setups_of(pod.spec, {}, False, (), ())["c0"].program == "netexec"
    )  # where files do not matter


def test_an_https_probe_uses_tls() -> None:
    """An HTTP probe does not."""
    text = manifest("", "", "--http-port=80").replace(
        "args:", "readinessProbe: {httpGet: {port: 80, scheme: SCHEME}}, args:"
    )
    assert [
        spec.is_tls for spec in active_probes(running(store(text.replace("SCHEME", "HTTPS"))))
    ] == [True]
    assert [
        spec.is_tls for spec in active_probes(running(store(text.replace("SCHEME", "HTTP"))))
    ] == [False]

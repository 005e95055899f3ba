"""`Lab`: a running lab, for tests and scripts in Python."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import warnings
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Literal, Self

from kubenetlab.api.json_types import JsonObject, JsonValue
from kubenetlab.errors import LabError
from kubenetlab.lab import rundir
from kubenetlab.lab.client import Client, select_lab
from kubenetlab.library.arguments import (
    Paths,
    Protocol,
    apply_arguments,
    manifest_arguments,
    options,
    probe_arguments,
    repeated,
    switches,
)
from kubenetlab.library.process import Completed, run_command
from kubenetlab.library.results import (
    SCHEMA_VERSION,
    CheckResult,
    PingMatrix,
    PingResult,
    PingSeries,
    Result,
    decode_result,
)


class LabWarning(UserWarning):
    """Warning of a command that succeeded, such as an unknown field of a manifest."""


class Lab:
    """A running lab.

    `Lab.up()` makes a lab. Used in a `with` statement, it is removed at the end of the block:

        with Lab.up("manifests/") as lab:
            assert lab.ping("client", "svc:web").ok

    `Lab("demo")` connects to a lab that is up. Methods raise the errors of `kubenetlab.errors`:
    ManifestError or UsageError for wrong arguments, and otherwise LabError, RequirementError or
    ApplyError. Warnings of manifests are Python warnings of the category LabWarning.
    """

    def __init__(self, name: str | None = None) -> None:
        """Connect to a lab.

        name: name of the lab; by default that of the environment variable KUBENETLAB_LAB, or the
            only lab that is up.
        Raises LabError if the lab is not up, or if no name is given and several labs are up.
        """
        self.name = select_lab(name or os.environ.get("KUBENETLAB_LAB")).lab
        """Name of the lab, as in the commands' option --lab."""

    @classmethod
    def up(
        cls,
        manifests: Paths = (),
        *,
        text: str = "",
        name: str | None = None,
        cni: str | None = None,
        kube_proxy_mode: str | None = None,
        policy_engine: str | None = None,
        nodes: int | None = None,
        real_commands: bool = False,
        strict: bool = False,
        allow_undeclared: bool = False,
        wait: bool = True,
        timeout_s: float = 60.0,
    ) -> Lab:
        """Make a lab from manifests, wait until its pods are ready, and return it.

        manifests: files and folders; without any and without `text`, the quickstart.
        text: further manifests as YAML or JSON.
        name: name of the lab; by default a random one, so that tests can run in parallel.
        cni, kube_proxy_mode, policy_engine, nodes: replace the values of the Cluster document.
        real_commands: run programs of this machine in containers.
        strict: refuse misconfigurations and unknown fields, instead of a warning.
        allow_undeclared: accept Services whose numeric target port no container serves.
        wait: False to return before the pods are ready.
        timeout_s: time to wait for the pods, in seconds.
        Raises LabError if the lab is up already, or if its pods do not become ready, ManifestError
        for its manifests, and RequirementError or ApplyError if it cannot be made. Nothing of the
        lab is left then.
        """
        name = name if name is not None else f"lab-{secrets.token_hex(4)}"
        if rundir.is_alive(name):
            raise LabError(f"lab {name} is up already; connect to it with Lab({name!r})")
        settings = options(
            ("--cni", cni),
            ("--proxy", kube_proxy_mode),
            ("--policy", policy_engine),
            ("--nodes", nodes),
        ) + switches(("--real-commands", real_commands))
        applying = manifest_arguments(manifests, text) + apply_arguments(
            strict, allow_undeclared, wait
        )
        try:
            done = run_command(
                ["up", "--lab", name, *settings, *applying, "--timeout", f"{timeout_s:g}s"],
                stdin=text,
            ).require(0)
            _warn(done)  # may raise, with a filter for warnings
        except BaseException:
            if rundir.run_directory(name).exists():  # also after a command that was killed
                run_command(["down", "--lab", name])
            raise
        lab = cls.__new__(cls)
        lab.name = name
        return lab

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the lab, also after an error."""
        self.down()

    def __repr__(self) -> str:
        return f"Lab({self.name!r})"

    @property
    def is_up(self) -> bool:
        """True if the lab is running."""
        return rundir.is_alive(self.name)

    def apply(
        self,
        manifests: Paths = (),
        *,
        text: str = "",
        strict: bool = False,
        allow_undeclared: bool = False,
        wait: bool = True,
        timeout_s: float = 60.0,
    ) -> None:
        """Apply manifests, and wait until the pods are ready; see `up` for the arguments.

        Raises ManifestError if a manifest is refused, and LabError if the pods do not become ready.
        """
        arguments = manifest_arguments(manifests, text) + apply_arguments(
            strict, allow_undeclared, wait
        )
        _warn(self._run(["apply", *arguments, "--timeout", f"{timeout_s:g}s"], text).require(0))

    def down(self) -> None:
        """Remove the lab and everything that it created. It may be down already."""
        self._run(["down"]).require(0)

    def ping(
        self,
        source: str,
        destination: str,
        *,
        port: int | None = None,
        protocol: Protocol = "TCP",
        path: str | None = None,
        family: Literal["IPv4", "IPv6"] | None = None,
        namespace: str | None = None,
        allow_unmodelled: Iterable[str] = (),
        deadline_s: float = 1.0,
    ) -> PingResult:
        """Send one probe from inside the lab, and compare the result with Kubernetes' promise.

        source, destination: targets (docs/targets.md), such as `client`, `shop/web:8080`,
            `svc:shop/web`, `node:worker`, `ext:client` or `http://web/hostname`.
        port: destination port. Without it, a Service is probed at its first port, and any other
            destination is pinged.
        path: path of a GET request.
        namespace: namespace of names without one; by default `default`.
        allow_unmodelled: kinds that the lab does not enforce, and that do not matter.
        deadline_s: time to wait for the answer, in seconds.
        Raises UsageError for a target that does not exist.
        """
        probe = probe_arguments(
            port, protocol, path, family, namespace, allow_unmodelled, deadline_s
        )
        return self._result(["ping", source, destination, *probe], PingResult)

    def ping_series(
        self,
        source: str,
        destination: str,
        count: int,
        *,
        port: int | None = None,
        protocol: Protocol = "TCP",
        path: str | None = None,
        family: Literal["IPv4", "IPv6"] | None = None,
        namespace: str | None = None,
        allow_unmodelled: Iterable[str] = (),
        deadline_s: float = 1.0,
    ) -> PingSeries:
        """Send `count` requests, and return their distribution over servers; see `ping`."""
        probe = probe_arguments(
            port, protocol, path, family, namespace, allow_unmodelled, deadline_s
        )
        arguments = ["ping", source, destination, "--count", str(count), *probe]
        return self._result(arguments, PingSeries)

    def ping_matrix(
        self, *, allow_unmodelled: Iterable[str] = (), deadline_s: float = 1.0
    ) -> PingMatrix:
        """Probe every pair of pods, nodes, Services and external hosts; see `ping`."""
        probe = probe_arguments(None, "TCP", None, None, None, allow_unmodelled, deadline_s)
        return self._result(["ping", *probe], PingMatrix)

    def check(
        self,
        tables: Paths = (),
        *,
        text: str = "",
        allow_unmodelled: Iterable[str] = (),
        allow_undeclared: bool = False,
        deadline_s: float = 1.0,
    ) -> CheckResult:
        """Test tables of expectations (docs/ci.md) with real packets.

        tables: files; without any and without `text`, everything that Kubernetes promises.
        text: another table as YAML or JSON.
        allow_unmodelled, deadline_s: see `ping`. allow_undeclared: see `up`.
        Raises ManifestError for an invalid table.
        """
        arguments = [
            *manifest_arguments(tables, text),
            *repeated("--allow-unmodelled", allow_unmodelled),
            *switches(("--allow-undeclared", allow_undeclared)),
        ]
        return self._result(["check", *arguments, "--deadline", str(deadline_s)], CheckResult, text)

    def exec(
        self,
        target: str,
        command: Sequence[str],
        *,
        container: str | None = None,
        namespace: str | None = None,
        stdin: str = "",
        timeout_s: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine inside a pod, a node or an external host.

        target: such as `client`, `deploy:web`, `node:worker` or `ext:client`.
        command: program and arguments.
        container: container whose environment is used.
        timeout_s: time allowed for the program, in seconds; None for no limit.
        Returns the exit status and the output; a status other than 0 is no error.
        Raises UsageError for a target that does not exist, and LabError after the timeout.
        """
        settings = options(("--container", container), ("--namespace", namespace))
        arguments = ["exec", *settings, target, "--", *command]
        done = self._run(arguments, stdin, timeout_s)
        return subprocess.CompletedProcess(list(command), done.status, done.output, done.messages)

    def get(self, kind: str, name: str, *, namespace: str | None = None) -> JsonObject:
        """Return an object as Kubernetes' API shows it.

        Raises LabError if there is no such object, and UsageError for an unknown kind.
        """
        document: JsonObject = self._data(["get", kind, name, *options(("--namespace", namespace))])
        return document

    def get_all(self, kind: str, *, namespace: str | None = None) -> list[JsonObject]:
        """Return all objects of a kind, of one namespace or by default of all.

        Raises UsageError for an unknown kind.
        """
        scope = ["--namespace", namespace] if namespace is not None else ["--all-namespaces"]
        items: list[JsonObject] = self._data(["get", kind, *scope])["items"]
        return items

    def inspect(self) -> JsonObject:
        """Return processes, network namespaces and addresses: the data of `inspect -o json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            **Client(self.name, on_warning=_on_warning).inspect(),
        }

    def run(
        self, command: str, *arguments: str, stdin: str = "", timeout_s: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run any kubenetlab command for this lab, such as `scale`, `break` or `diff`.

        Returns the exit status and the output. Raises the KubenetlabError that it reports.
        """
        done = self._run([command, *arguments], stdin, timeout_s)
        return subprocess.CompletedProcess(
            [command, *arguments], done.status, done.output, done.messages
        )

    def _run(
        self, arguments: Sequence[str], stdin: str = "", timeout_s: float | None = None
    ) -> Completed:
        command, *rest = arguments
        return run_command([command, "--lab", self.name, *rest], stdin=stdin, timeout_s=timeout_s)

    def _data(self, arguments: Sequence[str]) -> JsonValue:
        """Return the data that a command prints with `-o json`."""
        return json.loads(self._run([*arguments, "-o", "json"]).require(0).output)

    def _result(self, arguments: Sequence[str], type_: type[Result], stdin: str = "") -> Result:
        """Return the typed output of a command, whose exit status 1 says that it is not `ok`."""
        done = self._run([*arguments, "-o", "json"], stdin)
        if not done.output:
            done.require()
        result = decode_result(done.require(0, 1).output, type_)
        if result.ok != (done.status == 0):
            raise LabError(f"{' '.join(done.arguments)}: {done.warnings}")
        return result


def _on_warning(text: str) -> None:
    warnings.warn(text, LabWarning, stacklevel=3)


def _warn(done: Completed) -> None:
    """Issue the messages of a command that succeeded as one warning."""
    if done.warnings:
        warnings.warn(done.warnings, LabWarning, stacklevel=3)

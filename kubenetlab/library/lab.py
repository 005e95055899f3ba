"""`Lab`: a running lab, for tests and scripts in Python."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from kubenetlab.api.json_types import JsonObject
from kubenetlab.lab import rundir
from kubenetlab.lab.client import select_lab
from kubenetlab.lab.paths import LAB_API
from kubenetlab.library.argument_checks import Family, Protocol
from kubenetlab.library.arguments import (
    Paths,
    apply_arguments,
    check_arguments,
    explanation_arguments,
    manifest_arguments,
    options,
    ping_arguments,
    probe_arguments,
    up_arguments,
)
from kubenetlab.library.commands import LabCommands, warn
from kubenetlab.library.creation import LabCreation, new_name
from kubenetlab.library.events import LabEvent, event_of
from kubenetlab.library.policy_explanation import PolicyExplanation
from kubenetlab.library.results import (
    SCHEMA_VERSION,
    CheckResult,
    PingMatrix,
    PingResult,
    PingSeries,
)
from kubenetlab.library.source import Source


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
        self._commands = LabCommands(self.name)

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
    ) -> Self:
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
        arguments = up_arguments(
            manifests,
            text,
            cni=cni,
            kube_proxy_mode=kube_proxy_mode,
            policy_engine=policy_engine,
            nodes=nodes,
            real_commands=real_commands,
            strict=strict,
            allow_undeclared=allow_undeclared,
            wait=wait,
            timeout_s=timeout_s,
        )
        name = name if name is not None else new_name()
        return cls._made_by(LabCreation(name, arguments, text))

    @classmethod
    def _made_by(cls, creation: LabCreation) -> Self:
        """Return the lab that a command makes, when it is complete. Raises as `up` does."""
        creation.finish()
        lab = cls.__new__(cls)
        lab.name, lab._commands = creation.lab, LabCommands(creation.lab)
        try:
            lab.checkpoint()
        except BaseException:
            lab.down()
            raise
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
            strict, allow_undeclared, wait, timeout_s
        )
        warn(self._commands.run(["apply", *arguments], text).require(0))

    def delete(
        self, kind: str, name: str, *, namespace: str | None = None, timeout_s: float = 60.0
    ) -> None:
        """Delete an object, and wait until it is gone and the lab has adapted to it.

        Raises LabError if there is no such object, and UsageError for an unknown kind.
        """
        self._commands.run(["delete", kind, name, *options(("-n", namespace))]).require(0)
        self._commands.settle(timeout_s)

    def scale(
        self,
        workload: str,
        replicas: int,
        *,
        namespace: str | None = None,
        wait: bool = True,
        timeout_s: float = 60.0,
    ) -> None:
        """Set the number of pods of a workload, and wait until they are ready.

        workload: such as `deploy/web`, or `deploy:shop/web` with its namespace.
        Raises LabError if there is no such workload, or if its pods do not become ready.
        """
        arguments = [workload, *options(("--replicas", replicas), ("-n", namespace))]
        self._commands.run(["scale", *arguments]).require(0)
        if wait:
            self._commands.settle(timeout_s)

    def break_(self, fault: str, /, **settings: str | int) -> str:
        """Inject a fault (docs/faults.md), and return its ID.

        settings: options of the fault, such as `node="worker"`, `how="stopped"`, `with_="web-0"`.
        Raises UsageError for an unknown fault or option.
        """
        words = [f"{name.rstrip('_')}={value}" for name, value in settings.items()]
        document: JsonObject = self._commands.data(["break", fault, *words])
        return str(document["metadata"]["name"])

    def heal(self, fault: str | None = None) -> None:
        """Remove a fault by its ID, or by default all faults, and repair what they broke."""
        self._commands.run(["heal", *([fault] if fault is not None else [])]).require(0)

    def checkpoint(self) -> None:
        """Remember the present objects for `reset`; `up` does it when the lab is ready."""
        self._commands.client.post(f"{LAB_API}/checkpoint")

    def reset(self, *, timeout_s: float = 60.0) -> None:
        """Undo changes of objects since the checkpoint, and wait until the lab has adapted.

        Objects that were created, changed or deleted since, and faults, are as they were. Pods that
        still exist keep running: what programs did inside them is not undone.
        Raises LabError if there is no checkpoint, or if the pods do not become ready.
        """
        self._commands.reset(timeout_s)

    def down(self) -> None:
        """Remove the lab and everything that it created. It may be down already."""
        self._commands.run(["down"]).require(0)

    def pod(self, name: str, *, namespace: str | None = None) -> Source:
        """Return a pod as the source of packets; also a pod of a workload, as `deploy:web`."""
        return Source(self, name, namespace)

    def node(self, name: str) -> Source:
        """Return a node as the source of packets."""
        return Source(self, f"node:{name}")

    def external(self, name: str) -> Source:
        """Return an external host as the source of packets."""
        return Source(self, f"ext:{name}")

    def ping(
        self,
        source: str,
        destination: str,
        *,
        port: int | None = None,
        protocol: Protocol = "TCP",
        path: str | None = None,
        family: Family | None = None,
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
        arguments = ping_arguments(source, destination, port, protocol, path, family, namespace)
        probe = probe_arguments(allow_unmodelled, deadline_s)
        return self._commands.result(["ping", *arguments, *probe], PingResult)

    def ping_series(
        self,
        source: str,
        destination: str,
        count: int,
        *,
        port: int | None = None,
        protocol: Protocol = "TCP",
        path: str | None = None,
        family: Family | None = None,
        namespace: str | None = None,
        allow_unmodelled: Iterable[str] = (),
        deadline_s: float = 1.0,
    ) -> PingSeries:
        """Send `count` requests, and return their distribution over servers; see `ping`."""
        arguments = ping_arguments(source, destination, port, protocol, path, family, namespace)
        probe = [*probe_arguments(allow_unmodelled, deadline_s), "--count", str(count)]
        return self._commands.result(["ping", *arguments, *probe], PingSeries)

    def ping_matrix(
        self, *, allow_unmodelled: Iterable[str] = (), deadline_s: float = 1.0
    ) -> PingMatrix:
        """Probe every pair of pods, nodes, Services and external hosts; see `ping`."""
        probe = probe_arguments(allow_unmodelled, deadline_s)
        return self._commands.result(["ping", *probe], PingMatrix)

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
        arguments = check_arguments(tables, text, allow_unmodelled, allow_undeclared, deadline_s)
        return self._commands.result(["check", *arguments], CheckResult, text)

    def explain_policy(
        self,
        source: str,
        destination: str,
        *,
        port: int | None = None,
        protocol: Protocol = "TCP",
        family: Family | None = None,
        namespace: str | None = None,
    ) -> PolicyExplanation:
        """Explain which network policies allow or deny a connection; no packet is sent.

        The arguments are those of `ping`; a destination can also be `NAME:PORT/PROTOCOL`.
        Raises UsageError for a target that does not exist.
        """
        arguments = explanation_arguments(source, destination, port, protocol, family, namespace)
        return self._commands.typed(["explain-policy", *arguments], PolicyExplanation)

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
        done = self._commands.run(arguments, stdin, timeout_s)
        return subprocess.CompletedProcess(list(command), done.status, done.output, done.messages)

    def get(self, kind: str, name: str, *, namespace: str | None = None) -> JsonObject:
        """Return an object as Kubernetes' API shows it.

        Raises LabError if there is no such object, and UsageError for an unknown kind.
        """
        document: JsonObject = self._commands.data(
            ["get", kind, name, *options(("--namespace", namespace))]
        )
        return document

    def get_all(self, kind: str, *, namespace: str | None = None) -> list[JsonObject]:
        """Return all objects of a kind, of one namespace or by default of all.

        Raises UsageError for an unknown kind.
        """
        scope = ["--namespace", namespace] if namespace is not None else ["--all-namespaces"]
        items: list[JsonObject] = self._commands.data(["get", kind, *scope])["items"]
        return items

    def events(self, *, namespace: str | None = None) -> tuple[LabEvent, ...]:
        """Return the events of one namespace, or by default of all."""
        return tuple(map(event_of, self.get_all("events", namespace=namespace)))

    def inspect(self) -> JsonObject:
        """Return processes, network namespaces and addresses: the data of `inspect -o json`."""
        return {"schema_version": SCHEMA_VERSION, **self._commands.client.inspect()}

    def run(
        self, command: str, *arguments: str, stdin: str = "", timeout_s: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run any kubenetlab command for this lab, such as `rollout`, `logs` or `diff`.

        Returns the exit status and the output. Raises the KubenetlabError that it reports.
        """
        done = self._commands.run([command, *arguments], stdin, timeout_s)
        return subprocess.CompletedProcess(
            [command, *arguments], done.status, done.output, done.messages
        )

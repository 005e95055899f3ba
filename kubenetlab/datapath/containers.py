"""Programs of a pod: for each container that should run, its program and listening ports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter

from kubenetlab.api.annotation_values import ports_in
from kubenetlab.api.containers import Container
from kubenetlab.api.core import Service
from kubenetlab.api.meta import Labels, matches_labels
from kubenetlab.api.pods import LISTEN_ANNOTATION, Pod, PodSpec
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.kubelet.containers import should_run
from kubenetlab.controllers.kubelet.stopping import gets_signal
from kubenetlab.hoststate.programs import ListenPort, ProgramRun
from kubenetlab.programs import (
    COMMAND,
    DEFAULT,
    DONE,
    Ports,
    Setup,
    delays_shutdown,
    is_one_shot,
    program_of_image,
    reads_arguments,
    setup,
    takes_ports,
)
from kubenetlab.programs.command import configure_command, runs_own_command
from kubenetlab.programs.support import tls
from kubenetlab.programs.support.ending import Ending, ending_of, with_ending

ASSUMING = (DEFAULT, "web")
"""Programs that may listen on the target ports of Services when their container declares no port.

Images that are commonly used to keep a shell do not.
"""
Setups = Mapping[str, Setup]
"""Name of a container → its program."""
Files = Mapping[str, Mapping[str, str]]
"""Name of a container → path → text."""


def programs(
    netns: str, pod: Pod, setups: Setups, *, waits: bool, signalled: tuple[str, ...] = ()
) -> Iterator[ProgramRun]:
    """Yield the programs that run now.

    waits: programs that send one request and end are held back.
    signalled: containers of a terminating pod whose preStop hook has finished.
    """
    for container in pod.spec.all_containers:
        status = pod.container_status(container.name)
        if status is None or not should_run(status):
            continue
        setup_ = setups[container.name]
        is_stopping = gets_signal(pod, container, signalled)
        if is_stopping and setup_.program == COMMAND:
            # A process that is no longer desired gets SIGTERM. Built-in programs serve until no
            # node has rules that lead to them.
            continue
        if waits and status.state.running is None and is_one_shot(setup_.program):
            continue
        yield ProgramRun(
            netns,
            container.name,
            status.restart_count,
            setup_.program,
            setup_.options,
            setup_.listeners,
            is_stopping and delays_shutdown(setup_),
        )


def asks_once(spec: PodSpec, setups: Setups) -> bool:
    """Return True for a pod that may run a program which sends one request and ends."""
    return any(
        container.command or is_one_shot(setups[container.name].program)
        for container in spec.all_containers
    )


def setups_of(
    spec: PodSpec,
    annotations: Mapping[str, str],
    is_of_job: bool,
    target_ports: tuple[ListenPort, ...],
    real_commands: tuple[str, ...],
    files: Files | None = None,
) -> Setups:
    """Return the program of each container of a pod.

    target_ports: result of `numeric_target_ports`.
    files: contents of the files that `files_read` names; None where they do not matter.
    """
    ports = ports_of(spec, annotations, target_ports)

    def setup_of(container: Container) -> Setup:
        if runs_own_command(annotations, container, real_commands):
            return configure_command(container, spec.termination_grace_period_seconds)
        ending = ending_of(spec, container, annotations, is_of_job=is_of_job)
        built_in = _built_in(spec, container, ports.get(container.name, Ports()), ending)
        return (
            built_in
            if files is None
            else tls.with_files(built_in, dict(files.get(container.name, ())))
        )

    return {container.name: setup_of(container) for container in spec.all_containers}


def files_read(spec: PodSpec) -> tuple[tuple[str, str], ...]:
    """Return (container, path) of each file that a built-in program reads when it starts."""
    return tuple(
        (container.name, path)
        for container in spec.all_containers
        if tls.names_files(container) and reads_arguments(container.image)
        for path in tls.files_read(setup(container))
    )


def ports_of(
    spec: PodSpec, annotations: Mapping[str, str], target_ports: tuple[ListenPort, ...]
) -> Mapping[str, Ports]:
    """Return the known ports of each container, by its name.

    Target ports of Services are assumed for the first container that declares no port and whose
    image is not known. The annotation applies to the first container whose program does not know
    its ports.
    """
    serving = spec.long_running_containers
    assuming_name = next(
        (
            container.name
            for container in serving
            if not container.ports and program_of_image(container.image) in ASSUMING
        ),
        None,
    )
    annotation = annotations.get(LISTEN_ANNOTATION)
    stating_name = (
        next((container.name for container in serving if takes_ports(container.image)), None)
        if annotation is not None
        else None
    )
    return {
        container.name: Ports(
            target_ports if container.name == assuming_name else (),
            tuple(ListenPort(*port) for port in ports_in(annotation or ""))
            if container.name == stating_name
            else None,
        )
        for container in serving
    }


def assumed_ports(cluster: Cluster, pod: Pod) -> Mapping[str, tuple[ListenPort, ...]]:
    """Return the ports assumed for containers that declare none, by the container's name."""
    if all(container.ports for container in pod.spec.long_running_containers):
        return {}
    target_ports = numeric_target_ports(pod.labels, pod.spec, numeric_services(cluster, pod))
    known_ports = ports_of(pod.spec, pod.metadata.annotations, target_ports)
    return {
        name: ports.assumed
        for name, ports in known_ports.items()
        if ports.assumed and ports.stated is None
    }


def _built_in(spec: PodSpec, container: Container, ports: Ports, ending: Ending | None) -> Setup:
    """Return the built-in program of a container.

    An init container whose program would serve until it is stopped has nothing to do: it succeeds
    at once.
    """
    configured = with_ending(setup(container, ports), ending)
    is_init = container in spec.init_containers and not container.is_sidecar
    return Setup(DONE) if is_init and not is_one_shot(configured.program) else configured


def numeric_services(cluster: Cluster, pod: Pod) -> tuple[Service, ...]:
    """Return the Services with a numeric target port that may select a pod.

    They are found by one of the pod's labels.
    """
    by_label = cluster.index(Service, _by_label)
    candidates = [
        entry for pair in pod.labels.items() for entry in by_label.get((pod.namespace, *pair), ())
    ]
    return tuple(service for _, service in sorted(candidates, key=itemgetter(0)))


def _by_label(services: Iterable[Service]) -> dict[tuple[str, str, str], list[tuple[int, Service]]]:
    """Return (namespace, label, value) of the first selector term → (index, Service)."""
    index: dict[tuple[str, str, str], list[tuple[int, Service]]] = {}
    for number, service in enumerate(services):
        if service.spec.selector and any(
            isinstance(port.target_port, int) for port in service.spec.ports
        ):
            index.setdefault(
                (service.namespace, *next(iter(service.spec.selector.items()))), []
            ).append((number, service))
    return index


def numeric_target_ports(
    labels: Labels, spec: PodSpec, services: Iterable[Service]
) -> tuple[ListenPort, ...]:
    """Return the numeric target ports of Services for which a pod declares no port.

    `services` are the candidates; those that do not select the pod are ignored. A manifest need not
    declare ports. Where it declares none, the Services' target ports are the best guess.
    """
    declared = {
        (port.protocol, port.container_port)
        for container in spec.long_running_containers
        for port in container.ports
    }
    targets = (
        ListenPort(port.protocol, port.target_port)
        for service in services
        if matches_labels(service.spec.selector, labels)
        for port in service.spec.ports
        if isinstance(port.target_port, int) and (port.protocol, port.target_port) not in declared
    )
    return tuple(dict.fromkeys(targets))

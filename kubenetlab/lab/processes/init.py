"""init: PID 1 of a lab. It lives in namespaces of the lab's own, and when it dies the kernel frees everything.

It holds the listening sockets, so that clients queue while a process restarts and are refused only when the lab is dead; forks the
lab's processes from its own warm memory, and forks them again when they die; reaps, and says who died how. Until it hears `keep`
it dies with the `up` that made it.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from kubenetlab.errors import KubenetlabError, RequirementError, refusal
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.processes.identity import ProcessId, end_group, open_process, start_time
from kubenetlab.kernel.processes.inheritance import UMASK
from kubenetlab.lab import rundir
from kubenetlab.lab.context import LabContext, Role
from kubenetlab.lab.log import say
from kubenetlab.lab.processes.children import Child
from kubenetlab.lab.processes.isolation import leave, settle
from kubenetlab.lab.processes.output import Outputs, become_output, print_into
from kubenetlab.lab.processes.pod_processes import PodProcess, PodProcesses
from kubenetlab.lab.transport.frames import Frames, encode

BACKLOG = 256
ACCEPT_PAUSE_S = 0.05
"""How long to leave a connection waiting that cannot be accepted."""
_ANSWER_BYTES = 256
_SHARED = ("working_dir", "capabilities")
"""Arguments that a probe's command has in common with its container's own."""


def start(boot: LabContext, peer_end: socket.socket, claim: int) -> None:
    """Forks a lab's init out of this process, into namespaces of its own.

    `far_end` is `up`'s end of the progress socket, `claim` its hold on the run directory: neither is the lab's.
    """
    gc.freeze()  # what is loaded so far stays shared between all forks
    middle = syscalls.fork()
    if middle:
        os.waitpid(middle, 0)
        return
    try:
        peer_end.close()
        os.close(claim)
        leave(boot)
        if syscalls.fork() == 0:
            _run(boot)
    except BaseException as error:
        _report(boot, error)
    finally:
        os._exit(1)


def _run(boot: LabContext) -> None:
    """The life of PID 1; never returns."""
    try:
        settle()
        syscalls.set_process_name("knl-init", f"kubenetlab {boot.lab} init")
        _send(
            boot,
            {
                "init": (
                    int(os.readlink("self", dir_fd=boot.outer_proc)),
                    start_time("self", boot.outer_proc),
                )
            },
        )
        print_into(boot.path(rundir.LOG))
        gc.enable()
        names = [
            rundir.API_SOCKET,
            rundir.INNER_API_SOCKET,
            rundir.INIT_SOCKET,
            *(rundir.node_agent_socket(number) for number in range(boot.node_agents)),
            *(rundir.worker_socket(number) for number in range(boot.workers)),
        ]
        os.umask(0o177)
        boot.listeners = {name: _listen(boot.path(name)) for name in names}
        os.umask(UMASK)
        Init(boot).run()
    except BaseException as error:
        if not isinstance(error, KubenetlabError | OSError):
            say(traceback.format_exc())
        _report(boot, error)
    finally:
        os._exit(1)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    listener.listen(BACKLOG)
    return listener


def _report(boot: LabContext, error: BaseException) -> None:
    """Tells `up` why there will be no lab. What Linux refuses is the machine's affair, anything else that nobody foresaw is ours."""
    if isinstance(error, OSError):
        error = RequirementError(f"cannot make lab {boot.lab}: {refusal(error)}")
    kind = type(error).__name__ if isinstance(error, KubenetlabError) else "BugError"
    text = str(error) if isinstance(error, KubenetlabError) else f"{type(error).__name__}: {error}"
    _send(boot, {"error": text, "kind": kind, "trace": traceback.format_exc()})


def _send(boot: LabContext, message: dict[str, Any]) -> None:
    if boot.progress is not None:
        try:
            boot.progress.sendall(encode(message))
        except OSError:
            pass


class Init:
    """PID 1: a poll loop over dying children, requests, and the life of `up`."""

    def __init__(self, boot: LabContext) -> None:
        import kubenetlab.lab.processes.roles as roles  # asyncio and all that the processes need: once, warm for every fork
        import kubenetlab.lab.runtime.container_limits as container_limits

        self._boot = boot
        self._roles = roles
        self._children = [Child(name, role) for name, role in roles.permanent(boot)]
        self._connections: dict[int, tuple[socket.socket, Frames]] = {}
        self._in_pods = PodProcesses()
        self._limits = container_limits.ContainerLimits(boot)
        self._kept = False
        self._poll = select.poll()
        self._outputs = Outputs(self._poll)

    def run(self) -> None:
        wake, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        for child in self._children:
            self._fork(child)
        if self._boot.blanks is not None:
            self._boot.blanks.close()  # the agent has its own
            self._boot.blanks = None
        listener = self._boot.listeners[rundir.INIT_SOCKET]
        progress = self._boot.progress
        assert progress is not None
        for fd in (wake, listener.fileno(), progress.fileno()):
            self._poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll(self._timeout_ms()):
                if fd == wake:
                    os.read(wake, 4096)
                elif fd == listener.fileno():
                    self._accept(listener)
                elif fd in self._connections:
                    self._receive(fd)
                elif fd in self._outputs:
                    self._outputs.pump(fd)
                elif fd == progress.fileno():
                    self._hear(progress)
            self._reap()
            for child in self._children:
                if not child.pid and child.due <= time.monotonic():
                    self._fork(child)

    def _timeout_ms(self) -> float | None:
        due = [child.due for child in self._children if not child.pid]
        return max(0.0, (min(due) - time.monotonic()) * 1000) if due else None

    def _hear(self, progress: socket.socket) -> None:
        """`keep` lets the lab outlive `up`; if `up` dies before, so do we, and the kernel frees all."""
        if progress.recv(64) != b"keep":
            os._exit(1)
        self._kept = True
        self._poll.unregister(progress.fileno())
        progress.close()
        self._boot.progress = None
        self._boot.state = None

    def _reap(self) -> None:
        while True:
            try:
                exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if exited is None:
                return
            pid = exited.si_pid
            if pid in self._in_pods:
                end_group(
                    pid
                )  # before it is reaped: until then the number cannot be another group's
            _, status = os.waitpid(pid, 0)
            if (event := self._in_pods.exited(pid, status, time.time())) is not None:
                event |= self._limits.end(event["run"])
                self._outputs.drain(pid)
                self._tell_all(event)
            for child in self._children:
                if child.pid == pid:
                    self._schedule(child, f"died ({_how(status)})")

    def _schedule(self, child: Child, what: str) -> None:
        """When to start a process again of which `what` has happened."""
        if not self._kept and child.name == "agent":
            os._exit(1)  # it has told `up` why
        delay_s = child.schedule(time.monotonic())
        say(f"{child.name} {what}; next start in {delay_s:.1f} s")

    def _fork(self, child: Child) -> None:
        try:
            child.pid = self._spawn(child.name, child.role)
        except OSError as error:
            if not self._kept and child.name == "agent":
                raise  # `up` waits for its word
            self._schedule(child, f"cannot be started ({error.strerror})")

    def _spawn(self, name: str, role: Role, not_to_keep: tuple[int, ...] = ()) -> int:
        """Forks a process that runs a role; returns its pid."""
        pid = syscalls.fork()
        if pid:
            return pid
        try:
            for fd in not_to_keep:
                os.close(fd)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            syscalls.set_process_name(f"knl-{name}", f"kubenetlab {self._boot.lab} {name}")
            for connection, _ in self._connections.values():
                connection.close()
            self._outputs.close_inherited()
            if self._kept:
                self._boot.progress = self._boot.state = None
            if name != "agent" and self._boot.blanks is not None:
                self._boot.blanks.close()
            role(self._boot)
            os._exit(0)
        except BaseException as error:
            say(traceback.format_exc())
            if name == "agent":
                _report(self._boot, error)
        finally:
            os._exit(1)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            say(f"no connection accepted: {error.strerror}")
            time.sleep(
                ACCEPT_PAUSE_S
            )  # whoever waits there makes the poll return at once, again and again
            return
        self._connections[connection.fileno()] = (connection, Frames())
        self._poll.register(connection.fileno(), select.POLLIN)

    def _receive(self, fd: int) -> None:
        connection, frames = self._connections[fd]
        try:
            data = connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._drop(fd)
            return
        for message in frames.feed(data):
            self._send(fd, {"answers": message.get("id", 0), **self._serve(message, fd)})

    def _serve(self, message: dict[str, Any], client: int) -> dict[str, Any]:
        """Answer one request of a client, which is given by its connection.

        `spawn` forks a process into a pod, `exec` one that joins a container's own process; both name it by `run`. `signal` sends
        a signal to a process, `list` returns all of them and the exits that are kept, `acknowledge` drops such exits. What
        `exec` has started ends with the connection.
        Pids are of the lab's PID namespace.
        """
        try:
            match message["do"]:
                case "list":
                    return self._in_pods.listing()
                case "acknowledge":
                    self._in_pods.acknowledge(message["runs"])
                    return {"ok": True}
                case "signal":
                    return {"ok": self._in_pods.signal(message["run"], message["signal"])}
                case "spawn":
                    return self._start_in_pod(
                        message, ProcessId(*message["sandbox"]), message["arguments"]
                    )
                case "exec":
                    asked = message["arguments"]
                    beside = self._in_pods.of_container(asked["netns"], asked["beside"])
                    own = {name: beside.arguments.get(name) for name in _SHARED}
                    joined = {
                        "beside": ProcessId.of(beside.pid),
                        "limits": self._limits.of(beside.run),
                    }
                    return self._start_in_pod(
                        message, beside.sandbox, {**asked, **own, **joined}, client
                    )
            return {"error": f"unknown request {message['do']}"}
        except ProcessLookupError as error:
            return {"error": str(error)}
        except (KeyError, OSError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _start_in_pod(
        self,
        message: dict[str, Any],
        sandbox: ProcessId,
        arguments: dict[str, Any],
        client: int = -1,
    ) -> dict[str, Any]:
        """Fork the process that a request asks for; return the answer."""
        is_limited = message["role"] == "command" and "beside" not in arguments
        limits = {"limits": self._limits.begin(message["run"], arguments)} if is_limited else {}
        role = self._roles.in_pod(message["role"], {**arguments, **limits})
        log = self._log(arguments)
        try:
            pid = self._spawn_logged(
                str(message["role"]), role, sandbox, log, has_times="beside" not in arguments
            )
        except BaseException:
            self._limits.end(message["run"])
            raise
        self._in_pods.add(
            PodProcess(message["run"], pid, message["role"], sandbox, arguments, client)
        )
        return {"pid": pid}

    def _log(self, arguments: Mapping[str, Any]) -> str:
        return self._boot.path(rundir.container_log(arguments["netns"], arguments["container"]))

    def _spawn_logged(
        self, name: str, role: Role, sandbox: ProcessId, log: str, *, has_times: bool
    ) -> int:
        """Fork into the namespaces of a pause process; what is printed there goes into a log, by way of this process.

        has_times: as `Outputs.open` has it.
        """
        reading, writing = self._outputs.open(log, has_times=has_times)

        def logged(boot: LabContext) -> None:
            become_output(writing)
            role(boot)

        try:
            pid = self._spawn_inside(name, logged, sandbox)
        except BaseException:
            self._outputs.close(reading)
            raise
        finally:
            os.close(writing)
        self._outputs.belongs_to(reading, pid)
        return pid

    def _spawn_inside(self, name: str, role: Role, sandbox: ProcessId) -> int:
        """Forks into the namespaces of a pause process. Only a child is in the PID namespace joined, hence two forks."""
        pidfd, reading, writing = open_process(sandbox), -1, -1
        try:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            helper = syscalls.fork()
            if helper == 0:
                _answer(
                    writing,
                    lambda: self._spawn_joined(name, role, pidfd, (reading, writing, pidfd)),
                )
            os.close(writing)
            writing = -1
            os.waitpid(helper, 0)
            pid, number, reason = (
                os.read(reading, _ANSWER_BYTES).decode() or f"0 {errno.ESRCH} the sandbox is gone"
            ).split(" ", 2)
        finally:
            for fd in (reading, writing, pidfd):
                if fd >= 0:
                    os.close(fd)
        if pid == "0":
            raise OSError(int(number), reason)
        return int(pid)

    def _spawn_joined(
        self, name: str, role: Role, sandbox: int, not_to_keep: tuple[int, ...]
    ) -> int:
        syscalls.setns(
            sandbox,
            syscalls.CLONE_NEWNET
            | syscalls.CLONE_NEWUTS
            | syscalls.CLONE_NEWIPC
            | syscalls.CLONE_NEWPID,
        )
        return self._spawn(name, role, not_to_keep)

    def _tell_all(self, message: dict[str, Any]) -> None:
        for fd in list(self._connections):
            self._send(fd, message)

    def _send(self, fd: int, message: dict[str, Any]) -> None:
        """To whoever is behind this connection; nobody, when it has been dropped."""
        if fd not in self._connections:
            return
        connection, _ = self._connections[fd]
        try:
            connection.sendall(encode(message))
        except OSError:
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        connection, _ = self._connections.pop(fd)
        self._poll.unregister(fd)
        connection.close()
        for process in self._in_pods.abandon(fd):
            with suppress(OSError):
                os.unlink(self._log(process.arguments))


def _answer(writing: int, spawn: Callable[[], int]) -> NoReturn:
    """The life of a helper: it spawns, and tells `PID 0` or `0 ERRNO REASON`."""
    try:
        os.write(writing, f"{spawn()} 0 ".encode())
    except OSError as error:
        os.write(writing, f"0 {error.errno} {error.strerror}".encode()[:_ANSWER_BYTES])
    finally:
        os._exit(0)


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit status {code}"

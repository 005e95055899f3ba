"""The agent's hand for programs: the app workers, and init for programs that are processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from kubenetlab import programs
from kubenetlab.api.environment import expand
from kubenetlab.controllers.containers import KILLED
from kubenetlab.datapath.contexts import Context
from kubenetlab.hoststate.programs import ProgramRun
from kubenetlab.kernel.features import CONTAINER_PATH, has_command, no_such_command
from kubenetlab.lab import container_logs, rundir
from kubenetlab.lab.container_logs import Piece, Which
from kubenetlab.lab.hands import Hand
from kubenetlab.lab.log import log
from kubenetlab.lab.together import Together
from kubenetlab.lab.wire import Message

KILL_AFTER_S = 30.0
"""How long a process may take to end when it is asked to, where nothing else is said."""
ENDED_LOGS = 256
"""Of so many containers that are gone the logs are kept."""
REPLACE_AFTER_S = 1.0
"""How long one is waited for that another one is to follow."""

NOT_FOUND = 127
"""The exit status of a command that is no program, as shells have it."""

OnReports = Callable[[Sequence[Message]], None]
OnLost = Callable[[list[str]], None]


class RunsHand:
    """Starts and stops programs, and passes on what becomes of them."""

    def __init__(self, directory: Path, workers: int, on_reports: OnReports, on_lost: OnLost) -> None:
        self._directory = directory
        self._reports = Together(on_reports)
        self._on_lost = on_lost
        self._workers = [
            Hand(f"app worker {number}", str(directory / rundir.worker_socket(number)), partial(self._heard, number), lambda: None)
            for number in range(workers)
        ]
        self._init = Hand("init", str(directory / rundir.INIT_SOCKET), self._heard_init, lambda: None)
        self._worker_of: dict[str, int] = {}
        self._nodes: dict[str, int] = {}
        self._processes: dict[tuple[str, str], int] = {}
        self._gone: dict[int, asyncio.Event] = {}
        """Processes whose death is waited for."""
        self._node_of: dict[str, str] = {}
        self._leaving: dict[asyncio.Task[None], str] = {}
        """Sandboxes that are gone and may still hold ports, and the node of each, whose network it may have shared."""
        self._ending: dict[int, tuple[int, asyncio.TimerHandle]] = {}
        """Processes that were asked to end → (pidfd, when they are ended)."""
        self._ended: deque[tuple[str, str]] = deque()
        """Whose logs are kept although they are gone, the oldest first."""
        self._log_of: dict[tuple[str, str], int] = {}
        """(sandbox, container) of those that have a log file → the attempt whose it is."""
        self.running: dict[tuple[str, str], int] = {}
        """(sandbox, container) → attempt, as far as the processes have told."""

    async def adopt(self) -> None:
        """Learns from init which processes run in pods; the workers tell of themselves when they are connected to."""
        answer = await self._init.call(do="list")
        for process in answer.get("processes", ()):
            who = process["arguments"]
            if who.get("beside"):
                continue  # a probe's command
            self._processes[who["netns"], who["container"]] = process["pid"]
            self._log_of[who["netns"], who["container"]] = who["attempt"]
            self._report(_started(who, process["role"]))  # the former agent may have had no time to write it down
        for hand in self._workers:
            await hand.call(do="nothing")  # the answer comes behind the worker's own `hello`

    async def start(self, run: ProgramRun, pid: int, context: Context, environment: Callable[[], dict[str, str]]) -> str | None:
        """`environment` gives a real command's variables. None when it was started or could not be for a reason of its own (then it is reported); else what stood in the way."""
        self._node_of[run.netns] = context.node
        if leaving := [task for task, node in self._leaving.items() if node in ("", context.node)]:
            await asyncio.wait(leaving)
        if programs.is_process(run.program):
            return await self._start_process(run, pid, context, environment)
        answer = await self._worker(run.netns, context.node).call(
            do="run",
            netns=run.netns,
            pid=pid,
            container=run.container,
            attempt=run.attempt,
            program=run.program,
            options=run.options,
            listeners=[msgspec.to_builtins(listener) for listener in run.listeners],
            identity=context.identity,
            versions=context.versions,
            hosts=context.files.hosts,
            resolv_conf=context.files.resolv_conf,
        )
        if "error" in answer:
            return str(answer["error"])
        self._report(answer)
        return None

    async def tell(self, netns: str, container: str, node: str, news: list[Message]) -> bool:
        """Tells a built-in program what has happened; false when it is not there to hear it."""
        answer = await self._worker(netns, node).call(do="tell", netns=netns, container=container, news=news)
        return bool(answer.get("ok"))

    def process(self, netns: str, container: str) -> int | None:
        """The pid of a container that is a process of its own."""
        return self._processes.get((netns, container))

    async def stop(self, run: ProgramRun, node: str) -> None:
        """Ends a program; success when it has ended already."""
        self.running.pop((run.netns, run.container), None)
        pid = self._processes.get((run.netns, run.container), 0)
        if pid:
            self._end(pid, float(run.options.get("grace_s", KILL_AFTER_S)))
        else:
            await self._worker(run.netns, node).call(do="stop", netns=run.netns, container=run.container)

    async def logs(
        self, netns: str, container: str, node: str, which: Which = "latest", *, after: int = 0, is_going_on: bool = False
    ) -> Piece | None:
        """The log of a container's run, behind what was read before: the file of its process, or what the worker remembers; None when
        nobody has one. Of a pod that is gone nobody knows any more which worker had it: all are asked.
        """
        path = self._log(netns, container)
        if path.exists():
            is_former = which == "previous" or (which != "latest" and which < self._log_of.get((netns, container), which))
            try:
                return container_logs.read(container_logs.previous(path) if is_former else path, after, is_going_on=is_going_on)
            except FileNotFoundError:
                return None
        for hand in self._workers if netns not in self._worker_of else (self._worker(netns, node),):
            answer = await hand.call(do="logs", netns=netns, container=container, which=which, after=after)
            if "lines" in answer:
                return Piece(answer["lines"], answer["end"])
        return None

    def trim_logs(self) -> None:
        """Begins logs anew that have grown large."""
        for key in self._log_of:
            container_logs.trim(self._log(*key))

    def forget(self, netns: str) -> None:
        """A sandbox is gone, and all that ran in it. Logs are kept a while, for whoever asks why it ended."""
        self._ended.extend(key for key in self._log_of if key[0] == netns)
        while len(self._ended) > ENDED_LOGS:
            container_logs.remove(self._log(*self._ended.popleft()))
        self._leave(netns)
        for known in (self.running, self._processes, self._log_of):
            for key in [key for key in known if key[0] == netns]:
                del known[key]

    def _leave(self, netns: str) -> None:
        """Has what listened in a sandbox let go of its ports: a pod in its node's network may be followed by one that wants the same."""
        number = self._worker_of.pop(netns, None)
        node = self._node_of.pop(netns, "")
        deaths = {pid: self._gone.setdefault(pid, asyncio.Event()) for key, pid in self._processes.items() if key[0] == netns}
        if number is not None or deaths:
            task = asyncio.get_running_loop().create_task(self._left(netns, None if number is None else self._workers[number], deaths))
            self._leaving[task] = node
            task.add_done_callback(self._leaving.pop)

    async def _left(self, netns: str, worker: Hand | None, deaths: Mapping[int, asyncio.Event]) -> None:
        try:
            async with asyncio.timeout(REPLACE_AFTER_S):
                if worker is not None:
                    await worker.call(do="forget", netns=netns)
                for death in deaths.values():
                    await death.wait()
        except TimeoutError:
            log(f"{netns}: something in it may still hold its ports")
        finally:
            for pid in deaths:
                self._gone.pop(pid, None)

    async def _start_process(self, run: ProgramRun, pid: int, context: Context, environment: Callable[[], dict[str, str]]) -> str | None:
        who = {"netns": run.netns, "container": run.container, "attempt": run.attempt}
        if (former := self._processes.get((run.netns, run.container))) is not None:
            await self._replace(former)
        files = {"hosts": context.files.hosts, "resolv_conf": context.files.resolv_conf}
        variables = environment()
        argv = [expand(word, variables) for word in run.options.get("argv", ())]
        if argv and "/" not in argv[0] and not has_command(argv[0], variables.get("PATH", CONTAINER_PATH)):
            self._refuse(who, no_such_command(argv[0]))
            return None
        self._begin_log(who)
        born_with = {**who, **run.options, "argv": argv, **files, "identity": context.identity, "environment": variables}
        answer = await self._init.call(do="spawn", role=run.program, sandbox=pid, arguments=born_with)
        if "error" in answer:
            return str(answer["error"])
        self._processes[run.netns, run.container] = answer["pid"]
        self._report(_started(who, run.program))
        return None

    def _refuse(self, who: dict[str, Any], message: str) -> None:
        """A command that cannot even begin: it says so in its log, and is told of as one that never ran."""
        self._begin_log(who)
        with open(self._log(who["netns"], who["container"]), "a") as file:
            file.write(f"{message}\n")
        self._report({**who, "state": "failed", "exit_code": NOT_FOUND, "message": message, "at": time.time()})

    def _log(self, netns: str, container: str) -> Path:
        return self._directory / rundir.container_log(netns, container)

    def _begin_log(self, who: dict[str, Any]) -> None:
        key = who["netns"], who["container"]
        if who["attempt"] > self._log_of.get(key, -1):
            container_logs.begin_run(self._log(*key))
        self._log_of[key] = who["attempt"]

    def _end(self, pid: int, grace_s: float) -> None:
        """Asks a process to end, and ends it when it does not; success when it is gone already."""
        if pid in self._ending:
            return
        try:
            life = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        self._ending[pid] = life, asyncio.get_running_loop().call_later(grace_s, _send, life, signal.SIGKILL)
        _send(life, signal.SIGTERM)

    def _forget_end(self, pid: int) -> None:
        if pid in self._ending:
            life, timer = self._ending.pop(pid)
            timer.cancel()
            os.close(life)

    async def _replace(self, pid: int) -> None:
        """Ends a process that another one is to follow: the ports must be free again."""
        gone = self._gone.setdefault(pid, asyncio.Event())
        for number, wait_s in ((signal.SIGTERM, REPLACE_AFTER_S), (signal.SIGKILL, KILL_AFTER_S)):
            try:
                os.kill(pid, number)
                async with asyncio.timeout(wait_s):
                    await gone.wait()
            except ProcessLookupError:
                break
            except TimeoutError:
                continue
            break
        self._gone.pop(pid, None)

    def _worker(self, netns: str, node: str) -> Hand:
        """A sandbox stays with the worker that opened its sockets; a node's pods share one."""
        if netns not in self._worker_of:
            self._worker_of[netns] = self._nodes.setdefault(node, len(self._nodes) % len(self._workers))
        return self._workers[self._worker_of[netns]]

    def _heard(self, number: int, event: Message) -> None:
        if event["event"] == "run":
            self._report(event)
            return
        told = {(run["netns"], run["container"]) for run in event["runs"] if run["state"] == "running"}
        lost = [key for key in self.running if self._worker_of.get(key[0]) == number and key not in told and key not in self._processes]
        for key in lost:
            del self.running[key]
        for run in event["runs"]:
            self._worker_of[run["netns"]] = number
            self._report(run)
        if lost:
            self._on_lost([netns for netns, _ in lost])

    def _heard_init(self, event: Message) -> None:
        who = event["arguments"]
        key = (who["netns"], who["container"])
        self._forget_end(event["pid"])
        if (gone := self._gone.pop(event["pid"], None)) is not None:
            gone.set()  # another one follows, and is told of in its place
            return
        if self._processes.get(key) != event["pid"]:
            return
        del self._processes[key]
        code = os.waitstatus_to_exitcode(event["status"])
        said = container_logs.last_words(self._log(*key)) if code > 0 else f"{KILLED} {-code}" if code < 0 else ""
        told = {name: who[name] for name in ("netns", "container", "attempt")}
        self._report(
            {
                **told,
                "state": "exited",
                "exit_code": code if code >= 0 else 128 - code,
                "message": said,
                "at": time.time(),
            }
        )

    def _report(self, report: dict[str, Any]) -> None:
        key = (report["netns"], report["container"])
        if report["state"] == "running":
            self.running[key] = report["attempt"]
        elif self.running.get(key) == report["attempt"]:
            del self.running[key]
        self._reports.add(report)


def _started(who: dict[str, Any], program: str) -> dict[str, Any]:
    """The report of a process that runs now."""
    told = {name: who[name] for name in ("netns", "container", "attempt")}
    return {**told, "state": "running", "is_process": program == programs.COMMAND, "at": time.time()}


def _send(life: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(life, number)
    except ProcessLookupError:
        pass

"""`AsyncLab`: the methods of `Lab` as coroutines.

Each coroutine runs the method of `Lab` in a thread, so both have one implementation. A method of
`Lab` mainly waits for another process, and the event loop continues meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from kubenetlab.library.lab import Lab
from kubenetlab.library.source import Source

P = ParamSpec("P")
R = TypeVar("R")


def _lab_method(
    method: Callable[Concatenate[Lab, P], R],
) -> Callable[Concatenate[AsyncLab, P], Coroutine[Any, Any, R]]:
    """Return the asynchronous twin of a method of `Lab`."""

    @functools.wraps(method)
    async def call(self: AsyncLab, /, *args: P.args, **settings: P.kwargs) -> R:
        return await asyncio.to_thread(method, self.lab, *args, **settings)

    return call


def _source_method(
    method: Callable[Concatenate[Source, P], R],
) -> Callable[Concatenate[AsyncSource, P], Coroutine[Any, Any, R]]:
    """Return the asynchronous twin of a method of `Source`."""

    @functools.wraps(method)
    async def call(self: AsyncSource, /, *args: P.args, **settings: P.kwargs) -> R:
        return await asyncio.to_thread(method, self.source, *args, **settings)

    return call


def _maker(make: Callable[P, Lab]) -> Callable[P, Coroutine[Any, Any, AsyncLab]]:
    """Return the asynchronous twin of `Lab.up`."""

    @functools.wraps(make)
    async def call(*args: P.args, **settings: P.kwargs) -> AsyncLab:
        task = asyncio.create_task(asyncio.to_thread(make, *args, **settings))
        try:
            return AsyncLab(await asyncio.shield(task))
        except asyncio.CancelledError:
            # The thread cannot be stopped: remove the lab that it makes.
            await asyncio.to_thread((await task).down)
            raise

    return call


class AsyncLab:
    """A running lab, with the methods of `Lab` as coroutines.

    async with await AsyncLab.up("manifests/") as lab:
        assert await lab.pod("client").can_reach("svc:web")

    A coroutine that is cancelled returns at once, but its command runs to its end.
    """

    def __init__(self, lab: Lab) -> None:
        """Wrap a lab."""
        self.lab = lab
        """The lab, with its synchronous methods."""

    up = staticmethod(_maker(Lab.up))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the lab, also after an error."""
        await self.down()

    def __repr__(self) -> str:
        return f"AsyncLab({self.name!r})"

    @property
    def name(self) -> str:
        """Name of the lab."""
        return self.lab.name

    @property
    def is_up(self) -> bool:
        """True if the lab is running."""
        return self.lab.is_up

    def pod(self, name: str, *, namespace: str | None = None) -> AsyncSource:
        """Return a pod as the source of packets; see `Lab.pod`."""
        return AsyncSource(self.lab.pod(name, namespace=namespace))

    def node(self, name: str) -> AsyncSource:
        """Return a node as the source of packets."""
        return AsyncSource(self.lab.node(name))

    def external(self, name: str) -> AsyncSource:
        """Return an external host as the source of packets."""
        return AsyncSource(self.lab.external(name))

    apply = _lab_method(Lab.apply)
    break_ = _lab_method(Lab.break_)
    check = _lab_method(Lab.check)
    checkpoint = _lab_method(Lab.checkpoint)
    delete = _lab_method(Lab.delete)
    down = _lab_method(Lab.down)
    events = _lab_method(Lab.events)
    exec = _lab_method(Lab.exec)
    explain_policy = _lab_method(Lab.explain_policy)
    get = _lab_method(Lab.get)
    get_all = _lab_method(Lab.get_all)
    heal = _lab_method(Lab.heal)
    inspect = _lab_method(Lab.inspect)
    ping = _lab_method(Lab.ping)
    ping_matrix = _lab_method(Lab.ping_matrix)
    ping_series = _lab_method(Lab.ping_series)
    reset = _lab_method(Lab.reset)
    run = _lab_method(Lab.run)
    scale = _lab_method(Lab.scale)


class AsyncSource:
    """Pod, node or external host of a lab, with the methods of `Source` as coroutines."""

    def __init__(self, source: Source) -> None:
        """Wrap a source."""
        self.source = source
        """The source, with its synchronous methods."""

    def __repr__(self) -> str:
        return repr(self.source)

    can_reach = _source_method(Source.can_reach)
    http = _source_method(Source.http)
    exec = _source_method(Source.exec)

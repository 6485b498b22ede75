"""Calls that may block, in threads: a file server that hangs must not hang the event loop.

Rule: that no thread can be started is an error of the system, as where a user has used up the
processes of a login node: OSError (EAGAIN).
What storage does often has threads of its own (`muxfs.storage.crew`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import trio

P = ParamSpec("P")
T = TypeVar("T")


async def _run(
    call: Callable[..., T],
    arguments: tuple[object, ...],
    options: dict[str, object],
    limiter: trio.CapacityLimiter | None,
) -> T:
    begun = False

    def job() -> T:
        nonlocal begun
        begun = True
        return call(*arguments, **options)

    try:
        return await trio.to_thread.run_sync(job, abandon_on_cancel=True, limiter=limiter)
    except RuntimeError as error:
        if begun:
            raise
        raise OSError(errno.EAGAIN, str(error)) from error


async def in_thread(call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call in one of the threads that all share; cancelled, it is left alone: it may never end.

    Raises OSError (EAGAIN) where no thread can be started, and what the call raises.
    """
    return await _run(call, arguments, options, None)


async def in_own_thread(call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Do the same, never queued behind calls that hang."""
    return await _run(call, arguments, options, trio.CapacityLimiter(1))


async def open_process(
    command: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    env: Mapping[str, str] | None = None,
    close_fds: bool = True,
) -> trio.Process:
    """Start a command as trio does, which forks in a thread. Raises OSError."""
    try:
        return await trio.lowlevel.open_process(
            command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, close_fds=close_fds
        )
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error

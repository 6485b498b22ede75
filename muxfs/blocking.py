"""Calls that may block, in threads: a file server that hangs must not hang the event loop.

What storage does often has threads of its own (`muxfs.storage.crew`).
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
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
    job = functools.partial(call, *arguments, **options)
    try:
        return await trio.to_thread.run_sync(job, abandon_on_cancel=True, limiter=limiter)
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error


async def in_thread(call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call in one of the threads that all share; cancelled, it is left alone: it may never end.

    Raises OSError (EAGAIN) where no thread can be started, as where a user has used up the
    processes of a login node, and what the call raises.
    """
    return await _run(call, arguments, options, None)


async def in_own_thread(call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Do the same, never queued behind calls that hang."""
    return await _run(call, arguments, options, trio.CapacityLimiter(1))

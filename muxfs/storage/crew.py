"""Worker threads of one storage, each woken by an eventfd and telling of its end by another.

`trio.to_thread.run_sync` makes a context, names the thread twice and comes back through the
loop's queue: 25 system calls and 50 us a job, 0.6 ms in a virtual machine where each takes
15 us. Here the task waits for the thread's own eventfd: 9 calls.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import trio

T = TypeVar("T")
Job = Callable[[threading.Event], T]
"""It may block; its event is set when nobody waits for it any more."""

_JOB: Final = 1
_END: Final = 1 << 32
"""What a thread is told by its eventfd, which adds up what it was not told yet."""


class Crew:
    """Runs blocking jobs in at most so many threads, those of abandoned jobs included.

    Threads that have nothing to do wait for the next job; `close`, or the end of the crew, ends
    them.
    """

    def __init__(self, threads: int) -> None:
        self.limiter = trio.CapacityLimiter(threads)
        self._idle: list[_Worker] = []
        self._closed = False
        weakref.finalize(self, _dismiss, self._idle).atexit = False

    async def run(self, job: Job[T]) -> T:
        """Run a job in a thread; cancelled, it is abandoned: its thread may hang for ever."""
        await trio.lowlevel.checkpoint_if_cancelled()
        borrower = object()
        try:
            self.limiter.acquire_on_behalf_of_nowait(borrower)
        except trio.WouldBlock:
            await self.limiter.acquire_on_behalf_of(borrower)
        result: T = await self._wait(self._start(job, borrower), borrower)
        return result

    def begin(self, job: Job[T]) -> Coroutine[Any, Any, T] | None:
        """Begin a job at once; None where it would have to wait for a thread.

        What is returned is the rest of `run`, and must be awaited whatever happens.
        """
        borrower = object()
        try:
            self.limiter.acquire_on_behalf_of_nowait(borrower)
            return self._wait(self._start(job, borrower), borrower)
        except (trio.WouldBlock, OSError):
            return None

    def _start(self, job: Job[T], borrower: object) -> _Worker:
        try:
            worker = self._idle.pop() if self._idle else _Worker()
        except BaseException:
            self.limiter.release_on_behalf_of(borrower)
            raise
        worker.begin(job)
        return worker

    async def _wait(self, worker: _Worker, borrower: object) -> Any:
        token = trio.lowlevel.current_trio_token()

        def release() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(self.limiter.release_on_behalf_of, borrower)

        try:
            await trio.lowlevel.wait_readable(worker.ended)
        except BaseException:
            worker.abandon(release)
            raise
        self.limiter.release_on_behalf_of(borrower)
        try:
            return worker.outcome()
        finally:
            self._take_back(worker)

    def _take_back(self, worker: _Worker) -> None:
        if self._closed:
            worker.dismiss()
        else:
            self._idle.append(worker)

    def close(self) -> None:
        """Let threads end as soon as they have nothing to do; jobs can be run all the same."""
        self._closed = True
        _dismiss(self._idle)


def _dismiss(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().dismiss()


class _Worker:
    """One thread, which does one job after the other.

    Rule 1: `_job` is set by the loop before the thread is told, and taken by the thread.
    Rule 2: the thread closes the descriptors when it has read `_END`, the last thing that it is
    told: nobody writes to them then, nor to what has their numbers next.
    """

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            self.ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            """Readable once the job has ended."""
        except OSError:
            os.close(self._wake)
            raise
        self._job: Job[Any] | None = None
        self._abandoned = threading.Event()
        self._released: Callable[[], None] | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        try:
            threading.Thread(target=self._work, name="muxfs storage", daemon=True).start()
        except RuntimeError as error:
            self._close()
            raise OSError(errno.EAGAIN, str(error)) from error  # no thread can be made

    def begin(self, job: Job[Any]) -> None:
        """Have the job done."""
        self._job = job
        os.eventfd_write(self._wake, _JOB)

    def outcome(self) -> Any:
        """Return what the job returned, or raise what it raised, after `ended`."""
        os.eventfd_read(self.ended)
        result, error = self._result, self._error
        self._result = self._error = None
        if error is not None:
            try:
                raise error
            finally:
                del error  # else the traceback would keep itself
        return result

    def abandon(self, released: Callable[[], None]) -> None:
        """Leave the job to itself; `released` is called in the thread when it has ended."""
        self._released = released
        self._abandoned.set()
        self.dismiss()

    def dismiss(self) -> None:
        """End the thread after its job, or before it has begun it."""
        os.eventfd_write(self._wake, _END)

    def _work(self) -> None:
        try:
            while os.eventfd_read(self._wake) < _END:
                job, self._job = self._job, None
                assert job is not None  # noqa: S101  (it was told)
                try:
                    self._result = job(self._abandoned)
                except BaseException as error:  # noqa: BLE001  (raised in the loop)
                    self._error = error
                del job  # what it refers to is let go now, not with the next one
                os.eventfd_write(self.ended, _JOB)
        finally:
            self._close()
            if self._released is not None:
                self._released()

    def _close(self) -> None:
        os.close(self._wake)
        os.close(self.ended)

"""The tasks that drive an engine over its storage.

The writer puts what the engine wants written into the own mailbox, the reader polls
the peer's, the keeper looks after the files themselves, and the escalation doubts what
the reader sees. They never raise: what fails is reported to the engine and tried again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import trio

from muxfs.core import wire
from muxfs.core.engine import Engine, Read
from muxfs.core.flight import Write
from muxfs.core.polling import Pause, PollPolicy
from muxfs.core.stream import Ending
from muxfs.doorbell import Alarm, Doorbell
from muxfs.escalation import Escalation
from muxfs.info import Change, StorageRecovered, StorageTrouble
from muxfs.storage.base import FileCondition, Marker, Storage
from muxfs.storage.budget import PATIENT, URGENT, Allowance, Budget

OWN_FILE_BEATS: Final = 4
"""Heartbeats between looks at the own file; sooner when something is wrong with it."""

FIRST_LOOK: Final = 0.5
"""Seconds from a birth, or from making the file again, to the first look at the own file, doubled
with each up to the heartbeat: another process that started at the same instant found the file as
free as this one did, and the first looks at a new file show its name to other clients."""

READ_BACKOFF: Final = (0.05, 2.0)
"""First and longest pause in seconds after the peer's file could not be read."""

EAGER_SIZE: Final = 16 << 10
"""Bytes sent by the application up to which they are written without the writer task."""

EAGER_GAP: Final = 0.0001
"""Seconds after a write that was not left to the writer task until the next such one: what
comes meanwhile accumulates, and goes out as one batch."""

READS_IN_A_ROW: Final = 8
"""Reads out of memory until other tasks get their turn: a peer may write as fast as we read."""

LATE_NOTICE: Final = 0.001
"""Seconds after news in which the kernel's word of a change may be about what was read then."""

WRITES_IN_A_ROW: Final = 4
"""Writes into memory until other tasks get their turn."""


class Pump:
    """Moves bytes between one engine and its storage."""

    def __init__(
        self,
        engine: Engine,
        storage: Storage,
        poll: PollPolicy,
        heartbeat: float,
        dispatch: Callable[[], None],
        publish: Callable[[Change], None],
        allowance: Allowance,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`dispatch` passes on what the engine found out; it is called after each step.

        `chance` gives numbers from 0 to 1: many tunnels should not poll in step.
        """
        self.engine = engine
        self.storage = storage
        self.progress_lot = trio.lowlevel.ParkingLot()
        """Unparked whenever something was written or read, or a task ended."""
        self.tasks_running = 0
        self.time = trio.lowlevel.current_clock().current_time
        """What `trio.current_time` returns, in one call instead of four."""
        self._poll_policy = poll
        self._heartbeat = heartbeat
        self._budget = Budget(storage.operations, allowance)
        self._chance = chance
        self._dispatch = dispatch
        self._publish = publish
        self.escalation = Escalation(engine, storage, publish, self.kick_writer)
        self._scopes: list[trio.CancelScope] = []
        self._writer_bell = Doorbell()
        self._reader_bell = Doorbell()
        self._keeper_bell = Doorbell()
        self._alarm = Alarm(self._writer_bell.ring)
        self._next_look = Alarm(self._end_rest)
        self._rest = trio.CancelScope()
        self._resting = False
        """Whether the reader waits for the kernel's word, until `_next_look`."""

        self._writer_waits = False
        self._closing = False
        self._budget_wait = trio.CancelScope()
        self._writes: trio.Nursery | None = None
        self._eager_at = 0.0
        self._woken_for = 0.0
        self._looked_at = 0.0
        self._notified: bool | None = None
        """Whether the kernel told of a change in the last pause; None where it could not."""
        self._told_of_news = False
        """Whether it did before the last news."""
        self._news_at = 0.0
        self._napping: trio.CancelScope | None = None
        self._troubles: dict[str, int] = {}
        self._told_troubles: set[int] = set()

    def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks in the nursery; `stop` ends them, and nothing else does."""
        tasks = (self._write_loop, self._read_loop, self._keep_files, self.escalation.run)
        for task in (*tasks, self._alarm.run, self._next_look.run):
            nursery.start_soon(self._run_task, task)
            self.tasks_running += 1

    def stop(self) -> None:
        """Let the tasks end; `tasks_running` falls to zero when they have."""
        for scope in self._scopes:
            scope.cancel()

    def kick_writer(self, *, eagerly: bool = False) -> None:
        """Let the writer look for something to write; `eagerly`: at once, if it is idle."""
        if not eagerly:
            self._writer_bell.ring()
            return
        now = self.time()
        idle = self._writer_waits and not self._writer_bell.rung
        # where the loop itself copies bulk, the writer task waits long for its turn
        overtakes = self.storage.reader.immediate and self.engine.has_bulk
        may = (idle or overtakes) and not self._budget.bounded
        if may and now - self._eager_at > EAGER_GAP:
            self._write_eagerly(now)
        else:
            self._writer_bell.ring()

    def write_in_time(self) -> None:
        """Wake the writer when the engine has something to write, no sooner."""
        due = self.engine.next_timeout()
        if due < self._alarm.due:
            self._alarm.set(due)

    def close(self, ending: Ending) -> None:
        """Close the engine. Its last words, a few writes, wait for no bound of operations."""
        self.engine.close(ending)
        self._closing = True
        self._budget_wait.cancel()
        self.kick_writer()

    async def _write_loop(self) -> None:
        async with trio.open_nursery() as self._writes:
            await self._begin_writes(self._writes)
            self._writes.cancel_scope.cancel()  # after a failure some may hang for ever
        self._dispatch()

    async def _begin_writes(self, nursery: trio.Nursery) -> None:
        engine = self.engine
        in_a_row = 0
        while not engine.finished:
            bounded = self._budget.bounded and not self._closing
            if bounded and engine.wants_write(self.time()):
                # a beat waits for nothing: the peer would take this side for dead
                with trio.CancelScope(deadline=engine.next_beat) as self._budget_wait:
                    await self._budget.ready(URGENT)  # what comes meanwhile goes with it
            now = self.time()
            engine.handle_timeout(now)
            write = engine.next_write(now)
            self._dispatch()
            if write is None:
                in_a_row = 0
                self._alarm.set(engine.next_timeout())
                self._writer_waits = True
                await self._writer_bell.wait()
                self._writer_waits = False
                continue
            self._wake_reader()
            self._budget.spend()
            in_a_row += 1
            inline = self._write_now(write)
            if not inline:
                self._begin_write(write, nursery)
            # a task switch costs as much as the copy: not one for each write
            if not inline or in_a_row % WRITES_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()

    def _begin_write(self, write: Write, nursery: trio.Nursery) -> None:
        """Write in a thread, which begins now and not when the task has its turn."""
        begun = self.storage.writer.begin_write(write.offset, write.buffers)
        nursery.start_soon(self._write, write, begun)

    async def _write(self, write: Write, begun: Coroutine[Any, Any, None] | None) -> None:
        try:
            await (begun or self.storage.writer.write(write.offset, write.buffers))
        except OSError as error:
            self._write_failed(write, error)
        else:
            self._write_succeeded(write)
        self._writer_bell.ring()

    def _write_eagerly(self, now: float) -> None:
        """Write without the writer task, which saves its wake-up: for a message now and then."""
        write = self.engine.next_write(now)
        if write is None:
            self._eager_at = now
            self._writer_bell.ring()
            return
        self._budget.spend()
        if not self._write_now(write):
            assert self._writes is not None  # noqa: S101  (the writer task waits inside of it)
            self._begin_write(write, self._writes)
        self._wake_reader()
        self._dispatch()
        self._eager_at = self.time()

    def _write_now(self, write: Write) -> bool:
        """Write into memory; whether that was possible, though it may have failed."""
        try:
            if not self.storage.writer.write_now(write.offset, write.buffers):
                return False
        except OSError as error:
            self._write_failed(write, error)
        else:
            self._write_succeeded(write)
        return True

    def _write_succeeded(self, write: Write) -> None:
        self.engine.write_done(write, self.time())
        self._note_recovery("writing")
        self._tell_progress()

    def _write_failed(self, write: Write, error: OSError) -> None:
        self.engine.write_failed(write, self.time())
        self._note_trouble("writing", error)
        self._keeper_bell.ring()
        self._tell_progress()

    async def _read_loop(self) -> None:
        backoff = READ_BACKOFF[0]
        while True:
            # a new scope only after a rest that the kernel did not end, not for each wait
            with trio.CancelScope() as self._rest:
                while not self._rest.cancel_called:
                    backoff = await self._look_and_pause(backoff)

    async def _look_and_pause(self, backoff: float) -> float:
        """Read, and wait until it is time to look again; return the next pause after an error."""
        try:
            more = await self._poll()
        except OSError as error:
            self._note_trouble("reading", error)
            await trio.sleep(backoff)
            return min(2 * backoff, READ_BACKOFF[1])
        self._note_recovery("reading")
        if more and not (self.storage.reader.notifies and self.engine.caught_up):
            await trio.sleep(self.storage.reader.least_pause)
            if not self.storage.reader.immediate:
                # who got the news goes first: a read by a thread takes time from them
                await trio.lowlevel.checkpoint()
        else:
            await self._pause()
        return READ_BACKOFF[0]

    def _end_rest(self) -> None:
        """Have the reader look; one that is at work, and not waiting, looks in any case."""
        if self._resting:
            self._rest.cancel()

    async def _pause(self) -> None:
        """Wait until it is time to look again: woken by the kernel, or as the policy says."""
        engine, reader, policy = self.engine, self.storage.reader, self._poll_policy
        quiet = self.time() - engine.active_at
        if reader.notifies:
            # not for longer than without, unless the last news were told: what comes through a
            # server may not wake us
            told = math.inf if self._told_of_news else quiet
            pause = policy.pause(told, False, reader.least_pause, self._chance())
            self._next_look.set(self.time() + pause.seconds)
            self._notified, self._resting = False, True
            try:
                self._notified = await reader.notice()
            finally:
                self._resting = False
            return
        immediate = reader.immediate and not self._budget.bounded
        pause = policy.pause(quiet, immediate, reader.least_pause, self._chance())
        if pause.nap and engine.marker is not None:
            marker = Marker(*engine.marker)
            with trio.CancelScope() as self._napping:
                await reader.watch(marker, pause.nap, pause.seconds)
            self._napping = None
        elif pause.seconds:
            with trio.move_on_after(pause.seconds):
                await trio.sleep(reader.least_pause)
                await self._reader_bell.wait()
        else:
            await trio.lowlevel.checkpoint()

    async def _poll(self) -> bool:
        """Read once what is due; whether something new was there."""
        engine = self.engine
        # known only now: a mailbox that is missing at first tells nothing of its filesystem
        engine.speculate = not self.storage.reader.immediate
        engine.begin_poll(self.time())
        progress = await self._read_due()
        # the kernel told of a change that is not in the ring: then it is in the head
        now = self.time()
        if progress:
            self._news_at = now
            if self._notified is not None:
                self._told_of_news = self._notified
        elif self._notified and now - self._news_at > LATE_NOTICE:
            engine.look_at_head(now)
            progress = await self._read_due()
        self._notified = None
        self._after_reading()
        return progress

    async def _read_due(self) -> bool:
        """Read what the engine asks for, until it asks for no more; whether there was news."""
        engine, reader = self.engine, self.storage.reader
        progress = False
        reads = 0
        while (read := engine.next_read(self.time())) is not None:
            reads += 1
            if reads % READS_IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
            await self._budget.take(PATIENT)
            data = reader.read_now(read.offset, read.length)
            if data is None:
                beside = engine.next_read(self.time())
                if beside is not None:
                    progress = await self._read_several(read, beside) or progress
                    continue
                data = await self._read_patiently(read)
                if engine.receive(read, data, self.time()):
                    progress = True
                    self._after_reading()  # the next read takes time: acks and data go on now
                continue
            progress = engine.receive(read, data, self.time()) or progress
        return progress

    async def _read_patiently(self, read: Read) -> bytes:
        """Read; in the ring, soon after traffic, wait for news meanwhile."""
        reader, wait, engine = self.storage.reader, self._wait(), self.engine
        # the rest of a batch is there already: nothing will announce it
        if wait.seconds and read.marker is not None:
            # what came last was read with the place of the next: that was a look already
            rest = self._looked_at + wait.nap - self.time() if engine.caught_up else 0.0
            data = await reader.read_until(
                read.offset, read.length, Marker(*read.marker), wait.nap, wait.seconds, rest
            )
            self._looked_at = self.time()
            return data
        return await reader.read(read.offset, read.length)

    def _wait(self) -> Pause:
        """Return how a read of the ring waits for news now."""
        reader = self.storage.reader
        if reader.immediate or self._budget.bounded or self.engine.marker is None:
            return Pause(0.0)
        quiet = self.time() - self.engine.active_at
        return self._poll_policy.wait(quiet, reader.least_pause)

    async def _read_several(self, read: Read, beside: Read) -> bool:
        """Read both at the same time, and what the engine asks for meanwhile."""
        engine = self.engine
        progress = False
        errors: list[OSError] = []

        async def run(read: Read, reading: Callable[[Read], Awaitable[bytes]]) -> None:
            nonlocal progress
            try:
                data = await reading(read)
            except OSError as error:
                errors.append(error)
                nursery.cancel_scope.cancel()
                return
            progress = engine.receive(read, data, self.time()) or progress
            self._after_reading()
            while (more := engine.next_read(self.time())) is not None:
                nursery.start_soon(run_when_allowed, more)

        async def run_when_allowed(read: Read) -> None:
            await self._budget.take(PATIENT)
            await run(read, self._read_patiently)

        async def read_at_once(read: Read) -> bytes:
            return await self.storage.reader.read(read.offset, read.length)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, read, read_at_once)  # it was allowed already
            nursery.start_soon(run_when_allowed, beside)
        if errors:
            raise errors[0]
        return progress

    def _after_reading(self) -> None:
        self._dispatch()
        engine = self.engine
        now = self.time()
        self.escalation.consider(now)
        if engine.wants_write(now):
            self.kick_writer()
        else:
            self.write_in_time()
        self._tell_progress()

    def _tell_progress(self) -> None:
        if self.progress_lot:
            self.progress_lot.unpark_all()

    def _wake_reader(self) -> None:
        """Leave long pauses where streams were written: an answer is likely."""
        if self.engine.active_at == self._woken_for:
            return
        self._woken_for = self.engine.active_at
        self._reader_bell.ring()
        if self._napping is not None:
            self._napping.cancel()

    async def _keep_files(self) -> None:
        """Look after the names: heal the own file, follow the peer's (section 12)."""
        rewritten = beats = 0
        pause, born = FIRST_LOOK, self.engine.own
        while True:
            with trio.move_on_after(min(pause, self._heartbeat)):
                await self._keeper_bell.wait()
            if self.engine.own != born:
                pause, born = FIRST_LOOK, self.engine.own
            young = pause < self._heartbeat
            pause *= 2
            beats += not young
            standstill = self.engine.rewritten != rewritten
            rewritten = self.engine.rewritten
            try:
                look = young or beats % OWN_FILE_BEATS == 0 or standstill or self._troubles
                if look and not await self._check_own_file():
                    pause = FIRST_LOOK
                engine = self.engine
                if not engine.established or engine.silence > self._heartbeat:
                    await self.storage.reader.refresh()
            except OSError as error:
                self._note_trouble("looking after the files", error)
            else:
                self._note_recovery("looking after the files")

    async def _check_own_file(self) -> bool:
        """Mend the own file; whether it was whole."""
        writer = self.storage.writer
        whole = await writer.inspect() is FileCondition.INTACT
        if not whole:
            await writer.recreate()
            self.engine.restore()
        else:
            head = await writer.read_back(0, wire.PAGE)
            self.engine.receive_own(head, self.time())
        self._after_reading()
        return whole

    async def _run_task(self, task: Callable[[], Awaitable[None]]) -> None:
        # shielded: if the user is cancelled from outside, the other side is still to be told
        scope = trio.CancelScope(shield=True)
        self._scopes.append(scope)
        try:
            with scope:
                await task()
        finally:
            self.tasks_running -= 1
            if not self.tasks_running:
                self._budget.settle()
            self._tell_progress()

    def _note_trouble(self, where: str, error: OSError) -> None:
        """Tell each kind of error once, until all works again."""
        number = error.errno or 0
        if number not in self._told_troubles:
            self._publish(StorageTrouble(error))
        self._told_troubles.add(number)
        self._troubles[where] = number

    def _note_recovery(self, where: str) -> None:
        if self._troubles.pop(where, None) is not None and not self._troubles:
            self._told_troubles.clear()
            self._publish(StorageRecovered())

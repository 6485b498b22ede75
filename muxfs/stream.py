"""Streams and listeners of the embedding API: trio's own interfaces over a session.

The contract is trio's (`trio.abc`): every method is a checkpoint, a cancelled
`receive_some` or `accept` loses nothing, and misuse by two tasks at once raises
`trio.BusyResourceError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

import trio

from muxfs.core import stream as core
from muxfs.core.stream import Ending, ReceiveState, SendState
from muxfs.core.wire import Buffer, Code
from muxfs.errors import StreamRefused, StreamReset, printable

if TYPE_CHECKING:
    from muxfs.session import Session

DEFAULT_RECEIVE = 64 << 10
"""Bytes that `receive_some` returns at the most if the caller does not say."""

HANDED_ON = 16 << 10
"""Received bytes up to which a `sink` gets them from the task that read the file: without a
task switch for each message. More would keep that task from reading on."""

Sink = Callable[[Buffer], Buffer]
"""Takes bytes without waiting, and returns those that it did not take. May raise OSError."""


class _OneTask:
    """Raises BusyResourceError where a second task enters (trio's own guard is private)."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._entered = False

    def __enter__(self) -> None:
        if self._entered:
            raise trio.BusyResourceError(f"another task is {self._what} this stream")
        self._entered = True

    def __exit__(self, *_: object) -> None:
        self._entered = False


@final
class MuxStream(trio.abc.HalfCloseableStream):
    """One stream of a session, with everything that trio says of a `HalfCloseableStream`.

    Made by `Session.open_stream` and by the listener of `Session.listen`. If the far
    side, or the end of the session, breaks it off, its methods raise
    `trio.BrokenResourceError` whose cause is a `StreamEnded` with code and reason.
    """

    def __init__(self, session: Session, stream: core.Stream) -> None:
        self._session = session
        self._core = stream
        self._sending = _OneTask("sending on")
        self._receiving = _OneTask("receiving from")
        self._send_lot = trio.lowlevel.ParkingLot()
        self._receive_lot = trio.lowlevel.ParkingLot()
        self._closed = False
        self._eof_sent = False
        self._halfway = False
        """Whether a send_all has queued some of its bytes, and not all."""
        self._send_cancelled = False
        self._sink: Sink | None = None
        self._overflow: Callable[[], None] | None = None
        """What `feed` is to call when something is left for `receive_buffer`."""

        self._left: Buffer | OSError = b""
        """What the sink did not take, or could not."""

    def __repr__(self) -> str:
        return f"<MuxStream {self._core.stream_id} {printable(self._core.target)!r}>"

    @property
    def session(self) -> Session:
        """What carries it."""
        return self._session

    @property
    def target(self) -> str:
        """What the opener asked for. Text of the far side: pass it through `printable`."""
        return self._core.target

    @property
    def originator(self) -> str:
        """Whom the opener opened it for. Text of the far side, as above."""
        return self._core.originator

    @property
    def stream_id(self) -> int:
        """The stream's number in its session."""
        return self._core.stream_id

    # Opening

    async def wait_accepted(self) -> str:
        """Wait for the far side's answer; return the address that it is bound to there, or "".

        Raises StreamRefused with its reason; ClosedResourceError after `aclose`.
        """
        stream = self._core
        await trio.lowlevel.checkpoint()
        while not self.answered:
            await self._send_lot.park()
        if self._closed:
            raise trio.ClosedResourceError
        ending = stream.refusal if stream.accepted else stream.lost
        if ending is not None:
            raise StreamRefused(ending.code, ending.reason)
        return stream.bound_address

    @property
    def answered(self) -> bool:
        """Whether `wait_accepted` would not wait."""
        return self._core.accepted or self._core.lost is not None or self._closed

    async def accept(self, bound_address: str = "") -> None:
        """Answer an incoming stream of `Session.listen(auto_accept=False)`; again is no harm.

        What is sent before goes out with the answer.
        """
        self.accept_now(bound_address)
        await trio.lowlevel.checkpoint()

    def accept_now(self, bound_address: str = "") -> None:
        """Do what `accept` does, without a checkpoint."""
        engine, stream = self._session.engine, self._core
        engine.accept(stream, bound_address)
        pump = self._session.pump
        if stream.receive.expected and not stream.send.sendable:
            # who has sent data does not wait for this: it goes with the first answer, or an ack
            engine.owe_ack(pump.time())
            pump.write_in_time()
        else:
            pump.kick_writer()

    async def wait_given_up(self) -> None:
        """Wait until nobody is at the far side any more: it was reset there, or its session ended.

        For an incoming stream before its answer: what is done to answer it is then in vain.
        """
        await trio.lowlevel.checkpoint()
        while not (self._core.lost or self._is_given_up):
            await self._receive_lot.park()

    @property
    def _is_given_up(self) -> bool:
        receive, send = self._core.receive, self._core.send
        # also who reads no more, and has sent a FIN and nothing else: there is nothing to bring
        nothing = receive.state is ReceiveState.FINISHED and not receive.expected
        return receive.state is ReceiveState.RESET or (nothing and send.ending is not None)

    async def refuse(self, code: Code, reason: str = "") -> None:
        """Answer an incoming stream with a refusal, and close it."""
        if not self._closed:
            self._closed = True
            self._session.engine.refuse(self._core, Ending(code, reason))
            self._let_go()
        await trio.lowlevel.checkpoint()

    # Sending

    async def send_all(self, data: Buffer) -> None:
        """Send all of `data`; bytes are not copied, other buffers are.

        Raises ClosedResourceError, BrokenResourceError, BusyResourceError as trio says.
        If it is cancelled, the stream can only be closed, and the far side sees a reset.
        """
        with self._sending:
            self._check_sendable()
            view = data if isinstance(data, bytes) else memoryview(data).cast("B")
            at = 0
            try:
                while at < len(view):
                    await self._wait_room()
                    piece = self._piece(view, at)
                    self._session.send(self._core, piece)
                    at += len(piece)
                    self._halfway = at < len(view)
                await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                self._send_cancelled = self._send_cancelled or at > 0
                raise
            self._check_sendable()

    def send_now(self, data: bytes) -> bool:
        """Queue `data` if there is room, without a checkpoint; whether it was queued.

        For callers that have several pieces at hand and yield by themselves. Raises as
        `send_all` does.
        """
        with self._sending:
            self._check_sendable()
            if self._core.send.room <= 0:
                return False
            self._session.send(self._core, data)
            return True

    @property
    def turn(self) -> int:
        """Bytes worth sending at once: less where small messages of other streams wait for them."""
        return self._session.turn(self._core)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` would probably not have to wait; raises what it raises."""
        with self._sending:
            self._check_sendable()
            await trio.lowlevel.checkpoint()
            await self._wait_room()

    async def send_eof(self) -> None:
        """End the sending direction cleanly; again is no harm. Raises as `send_all` does."""
        with self._sending:
            self._finish()
            await trio.lowlevel.checkpoint()

    def send_eof_now(self) -> bool:
        """Do what `send_eof` does, without a checkpoint; True."""
        with self._sending:
            self._finish()
        return True

    def _finish(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if not self._eof_sent:
            self._check_sendable()
            self._eof_sent = True
            self._session.engine.finish(self._core)
            self._session.pump.kick_writer(eagerly=True)

    def _piece(self, view: bytes | memoryview, at: int) -> Buffer:
        """Return the next piece to queue: never one that its owner could still change.

        Up to a batch at once, though that is more than there is room for: a piece less
        is a write less.
        """
        end = min(len(view), at + self._core.send.largest_piece)
        if not isinstance(view, bytes):
            return bytes(view[at:end])
        return view if end - at == len(view) else memoryview(view)[at:end]

    async def _wait_room(self) -> None:
        while self._core.send.room <= 0:
            await self._send_lot.park()
            self._check_sendable()

    def _check_sendable(self) -> None:
        send = self._core.send
        if self._closed or self._eof_sent:
            raise trio.ClosedResourceError
        if send.ending is not None or send.state is not SendState.OPEN:
            raise _broken(send.ending)
        if self._send_cancelled:  # what would follow is not what comes next, nor is an end clean
            raise _broken(Ending(Code.CANCELLED, "an earlier send_all was cancelled halfway"))

    # Receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive up to `max_bytes` (64 KiB if not given); b"" at the clean end.

        Raises ClosedResourceError, BrokenResourceError, BusyResourceError as trio says.
        """
        if max_bytes is not None:
            if not isinstance(max_bytes, int):
                raise TypeError("max_bytes must be an integer or None")
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        return bytes(await self.receive_buffer(max_bytes or DEFAULT_RECEIVE))

    async def receive_buffer(self, max_bytes: int, sink: Sink | None = None) -> Buffer:
        """Like `receive_some`, without the copy: what is returned may be a memoryview.

        What comes in small pieces goes to the `sink` as soon as it is here, and only what that
        does not take is returned. Raises what the sink raises.
        """
        with self._receiving:
            if self._closed:
                raise trio.ClosedResourceError
            receive = self._core.receive
            if receive.readable and not (sink and self._hand_on(sink)):
                # before the data is taken, so that a cancelled call loses nothing
                await trio.lowlevel.checkpoint()
            try:
                self._sink = sink
                while not (receive.readable or self._left or self._closed):
                    await self._receive_lot.park()
            finally:
                self._sink = None
            left, self._left = self._left, b""
            if isinstance(left, OSError):
                raise left
            if left:
                return left
            if self._closed:
                raise trio.ClosedResourceError
            if receive.buffered:
                return self._session.take(self._core, max_bytes)
            if receive.state is ReceiveState.FINISHED:
                return b""
            raise _broken(receive.ending)

    def feed(self, sink: Sink, overflow: Callable[[], None]) -> bool:
        """Give what comes to the sink as soon as it is here, without a task; True.

        At a clean end the sink gets b"", and that is all. What it does not take, or raises, larger
        pieces and other ends are left for `receive_buffer`: then `overflow` is called, once, by
        whatever task finds out, also before this returns.
        """
        self._sink, self._overflow = sink, overflow
        self._feed(sink, overflow)
        return True

    def stop_feeding(self) -> None:
        """Call neither sink nor overflow any more."""
        self._sink = self._overflow = None

    def _feed(self, sink: Sink, overflow: Callable[[], None]) -> None:
        if self._hand_on(sink):
            return
        self.stop_feeding()
        receive = self._core.receive
        if receive.state is ReceiveState.FINISHED and not (receive.buffered or self._left):
            try:
                sink(b"")
            except OSError as error:
                self._left = error
            else:
                return
        overflow()

    # Closing

    async def aclose(self) -> None:
        """Close: what was sent still arrives, with a clean end, and nothing more is received.

        If it is cancelled, or a `send_all` was or is halfway, the far side sees a reset, so
        that truncated data never looks complete.
        """
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self._abort(Ending(Code.CANCELLED))
            raise
        self.close_now()

    def close_now(self) -> bool:
        """Do what `aclose` does, without a checkpoint; True."""
        if self._send_cancelled or self._halfway:
            self._abort(Ending(Code.CANCELLED))
        elif not self._closed:
            self._closed = True
            engine = self._session.engine
            if self._unanswered:
                engine.refuse(self._core, Ending(Code.CANCELLED))
            else:
                engine.finish(self._core)
                engine.stop(self._core, Ending(Code.CANCELLED))
            self._let_go()
        return True

    async def abort(self, code: Code = Code.CANCELLED, reason: str = "") -> None:
        """Break the stream off: the far side sees a reset, never a clean end."""
        self._abort(Ending(code, reason))
        await trio.lowlevel.checkpoint()

    def _abort(self, ending: Ending) -> None:
        if not self._closed:
            self._closed = True
            if self._unanswered:
                self._session.engine.refuse(self._core, ending)
            else:
                self._session.engine.abort(self._core, ending)
            self._let_go()

    @property
    def _unanswered(self) -> bool:
        """Whether the far side still waits for this one's accept or refuse."""
        return not (self._core.accepted or self._core.opened_here)

    def _let_go(self) -> None:
        self._session.engine.release(self._core)
        if self._session.engine.wants_write(self._session.pump.time()):
            self._session.pump.kick_writer()
        self.wake()

    # For the session

    def wake(self) -> None:
        """Let waiting tasks look again; called by the session when something changed."""
        if self._send_lot:
            self._send_lot.unpark_all()
        if self._sink and self._overflow:
            self._feed(self._sink, self._overflow)
        elif self._receive_lot and not (self._sink and self._hand_on(self._sink)):
            self._receive_lot.unpark_all()

    def _hand_on(self, sink: Sink) -> bool:
        """Give what is here to the sink; whether it took all, and there is nothing else to tell."""
        receive = self._core.receive
        while 0 < receive.buffered <= HANDED_ON and not (self._left or self._closed):
            try:
                self._left = sink(self._session.take(self._core, HANDED_ON))
            except OSError as error:
                self._left = error
        return not (receive.readable or self._left or self._closed)


def _broken(ending: Ending | None) -> trio.BrokenResourceError:
    ending = ending or Ending(Code.CANCELLED, "the stream was reset")
    cause = StreamReset(ending.code, ending.reason)
    error = trio.BrokenResourceError(str(cause.strerror))
    error.__cause__ = cause
    return error


@final
class MuxListener(trio.abc.Listener[MuxStream]):
    """Incoming streams of a session; made by `Session.listen`."""

    def __init__(self, session: Session, auto_accept: bool) -> None:
        self._session = session
        self._auto_accept = auto_accept
        self._closed = False

    async def accept(self) -> MuxStream:
        """Wait for the next incoming stream.

        Raises ClosedResourceError after `aclose`, and at the end of the session.
        """
        session = self._session
        if self._closed or session.closed or session.has_incoming:  # else waiting is a checkpoint
            await trio.lowlevel.checkpoint()
        while True:
            if self._closed or self._session.closed:
                raise trio.ClosedResourceError
            stream = self._session.next_incoming()
            if stream is not None:
                if self._auto_accept:
                    self._session.engine.accept(stream._core)  # noqa: SLF001
                    self._session.pump.kick_writer()
                return stream
            await self._session.incoming_lot.park()

    async def aclose(self) -> None:
        """Stop listening; streams that nobody accepted are refused."""
        if not self._closed:
            self._closed = True
            self._session.stop_listening()
        await trio.lowlevel.checkpoint()

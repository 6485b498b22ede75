"""Connections carried by commands: each has a child of its own, as with inetd.

Rule 1: no child outlives its connection, and none is left unwaited for.
Rule 2: a command's end of file proves nothing before it has ended well: it may have been cut
off, and a client must not take that for a clean end.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Final

import trio

from muxfs.blocking import open_process
from muxfs.core.wire import Code
from muxfs.errors import printable
from muxfs.forwards.carrier import Carrier, Load
from muxfs.forwards.events import Ended, Opened, Refused, Report
from muxfs.forwards.splice import LARGEST_READ, Transfer, splice
from muxfs.forwards.tcp import Buffer, Connection

VERDICT: Final = 0.3
"""Seconds that a command has to end after its end of file; one that goes on has half-closed."""
LEAVE: Final = 10.0
"""Seconds that a command has to end once both directions are over."""
TERMINATE: Final = 5.0
"""Seconds that it then has to end after SIGTERM, before SIGKILL."""
LONGEST_LINE: Final = 1000


class CommandCarrier(Carrier):
    """Carries each connection by a child that runs one command."""

    def __init__(
        self, command: Sequence[str], report: Report, hear: Callable[[str], None], most: int
    ) -> None:
        """`hear` gets the lines that children write on stderr; `most` run at once."""
        self.report = report
        self.load = Load(most)
        self._command = list(command)
        self._hear = hear

    async def join(
        self,
        connection: Connection,
        text: str,
        originator: str,
        timeout: float,  # noqa: ARG002  (how long the command may take is its own affair)
        target: str = "",
    ) -> Transfer | Refused:
        """Run the command, and carry a connection to its end. Takes it over."""
        transfer = Transfer()
        try:
            process = await open_process(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            connection.reset()
            reason = f"cannot run {self._command[0]}: {error.strerror}"
            refused = Refused(originator, target or text, Code.REFUSED, reason)
            self.report(refused)
            return refused
        self.report(Opened(originator, target or text))
        try:
            async with trio.open_nursery() as nursery:
                said_all = trio.Event()
                nursery.start_soon(self._listen, process, said_all)
                await splice(connection, Child(process), transfer)
                with trio.move_on_after(VERDICT):  # a grandchild may keep it open
                    await said_all.wait()
                nursery.cancel_scope.cancel()
        finally:
            await end(process)
            sent, received = transfer.sent, transfer.received
            self.report(Ended(originator, target or text, sent, received, transfer.clean))
        return transfer

    async def _listen(self, process: trio.Process, said_all: trio.Event) -> None:
        """Pass on what the child says on stderr, line by line, and harmless for a terminal."""
        assert process.stderr is not None  # noqa: S101
        rest = b""
        async for data in process.stderr:
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                words = line[:LONGEST_LINE].decode(errors="replace").strip()
                if words:
                    self._hear(printable(words))
        said_all.set()


class Child:
    """A child's standard input and output, as `splice` wants a stream."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        self._process = process
        self._stdin: trio.abc.SendStream = process.stdin
        self._stdout: trio.abc.ReceiveStream = process.stdout

    @property
    def turn(self) -> int:
        """Bytes worth sending at once."""
        return LARGEST_READ

    def send_now(self, data: bytes) -> bool:  # noqa: ARG002
        """Send nothing: a pipe may be full."""
        return False

    async def send_all(self, data: Buffer) -> None:
        """Send; raises BrokenResourceError if the child reads no more."""
        await self._stdin.send_all(data)

    def send_eof_now(self) -> bool:
        """Do nothing: closing a pipe is a task's affair."""
        return False

    async def send_eof(self) -> None:
        """Close the child's standard input."""
        await self._stdin.aclose()

    def feed(
        self,
        sink: Callable[[Buffer], Buffer],  # noqa: ARG002
        overflow: Callable[[], None],  # noqa: ARG002
    ) -> bool:
        """Do nothing: what a pipe has is read by a task."""
        return False

    def stop_feeding(self) -> None:
        """Do nothing, too."""

    async def receive_buffer(
        self,
        max_bytes: int,
        sink: Callable[[Buffer], Buffer] | None = None,  # noqa: ARG002
    ) -> Buffer:
        """Receive; b"" at an end of file, unless the child failed: then BrokenResourceError."""
        data = await self._stdout.receive_some(max_bytes)
        if not data:
            with trio.move_on_after(VERDICT):
                await self._process.wait()
            if self._process.returncode:
                raise trio.BrokenResourceError(f"exit code {self._process.returncode}")
        return data

    def close_now(self) -> bool:
        """Do nothing: the child's end is to be waited for."""
        return False

    async def aclose(self) -> None:
        """Close both, and wait for the child's end for some time."""
        await self._stdin.aclose()
        await self._stdout.aclose()
        with trio.move_on_after(LEAVE):
            await self._process.wait()

    async def abort(self, code: Code = Code.CANCELLED, reason: str = "") -> None:  # noqa: ARG002
        """End the child before its input is closed: that would look like a clean end to it."""
        await end(self._process)


async def end(process: trio.Process) -> None:
    """See to it that a child has ended, and close its pipes."""
    with trio.CancelScope(shield=True):
        if process.poll() is None:
            process.terminate()
            with trio.move_on_after(TERMINATE):
                await process.wait()
        if process.poll() is None:
            process.kill()
            await process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                await pipe.aclose()

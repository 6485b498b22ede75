"""What commands say: calm lines for people on stderr, or one JSON object a line on stdout.

Rule: an event is told in one place, with its words and its fields side by side.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Final, TextIO

import attrs

from muxfs.units import amount

QUIET: Final = -1
NORMAL: Final = 0
VERBOSE: Final = 1


@attrs.define
class Output:
    """Where a command's words go."""

    json: bool = False
    level: int = NORMAL
    events_to: TextIO = attrs.field(factory=lambda: sys.stdout)
    words_to: TextIO = attrs.field(factory=lambda: sys.stderr)

    def say(self, words: str, level: int = NORMAL) -> None:
        """Say something to people only."""
        if words and not self.json and level <= self.level:
            _write(self.words_to, words)

    def tells(self, level: int) -> bool:
        """Whether events of that level are told at all."""
        return level <= max(self.level, NORMAL)

    def tell(self, event: str, words: str, level: int = NORMAL, **fields: object) -> None:
        """Tell an event: the words to people, the name and fields to programs."""
        if not self.tells(level):
            return
        if self.json:
            _write(self.events_to, json.dumps({"event": event, **fields}, ensure_ascii=True))
        else:
            self.say(words, level)

    def complain(self, words: str) -> None:
        """Tell people about a failure, whatever they asked for."""
        _write(self.words_to, f"muxfs: {words}")


def _write(stream: TextIO, line: str) -> None:
    try:
        stream.write(line + "\n")
        stream.flush()
    except BrokenPipeError:
        _let_go(stream)
    except (OSError, ValueError):
        pass  # a closed terminal, a full disk: no reason to end the tunnel


def _let_go(stream: TextIO) -> None:
    """Let the rest go nowhere: nobody reads any more, which is no reason to end the tunnel either.

    What Python keeps in its buffer would fail again in the last flush, and the exit code with it.
    """
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class LiveLine:
    """One line of a terminal that changes; nothing where the stream is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.live = stream.isatty()
        self._shown = False

    def show(self, text: str) -> None:
        """Put the text in place of the one before."""
        if self.live:
            self._shown = True
            self._put(f"\r{text}\x1b[K")

    def end(self) -> None:
        """Remove the line from the terminal."""
        if self._shown:
            self._shown = False
            self._put("\r\x1b[K")

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass


class ProgressLine:
    """Shows how far the preparing of a mailbox file is, if it takes long; called from any thread.

    On a terminal one line that changes; else a single line.
    """

    QUIET_TIME: Final = 2.0  # seconds
    INTERVAL: Final = 0.2

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = LiveLine(stream)
        self._next = time.monotonic() + self.QUIET_TIME
        self._told = False

    def __call__(self, done: int, total: int) -> None:
        """Take note of `done` of `total` bytes."""
        now = time.monotonic()
        if now < self._next or (self._told and not self._line.live):
            return
        self._next = now + self.INTERVAL
        text = f"  preparing the mailbox file: {amount(done)} of {amount(total)}"
        self._line.show(text)
        if not self._told and not self._line.live:
            _write(self._stream, text)
        self._told = True

    def end(self) -> None:
        """Remove the line from the terminal."""
        self._line.end()

"""Commands as real processes."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

PATIENCE = 60.0
"""Seconds; virtual machines of CI were seen to stand still for 26 of them."""


@attrs.define(eq=False)
class Command:
    """A running command whose output is read as it comes."""

    process: subprocess.Popen[str]
    lines: dict[str, list[str]] = attrs.field(factory=lambda: {"stdout": [], "stderr": []})
    _news: queue.SimpleQueue[None] = attrs.field(factory=queue.SimpleQueue)
    _readers: list[threading.Thread] = attrs.field(factory=list)

    def follow(self) -> None:
        for name in self.lines:
            thread = threading.Thread(target=self._read, args=(name,), daemon=True)
            thread.start()
            self._readers.append(thread)

    def _read(self, name: str) -> None:
        with getattr(self.process, name) as pipe:
            for line in pipe:
                self.lines[name].append(line.rstrip("\n"))
                self._news.put(None)
        self._news.put(None)

    @property
    def stderr(self) -> str:
        return "\n".join(self.lines["stderr"])

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines["stdout"]]

    def wait_for(self, found: Callable[[], Any]) -> Any:
        """Wait until `found` gives something true, looking at each new line."""
        while not (result := found()):
            try:
                self._news.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"waited in vain: {self.lines}") from None
            ended = not any(thread.is_alive() for thread in self._readers)
            if ended and not found():
                raise AssertionError(f"ended without it: {self.lines}")
        return result

    def says(self, words: str) -> None:
        """Wait until stderr holds the words."""
        self.wait_for(lambda: words in self.stderr)

    def event(self, name: str) -> dict[str, Any]:
        """Wait for the first JSON event of that name."""
        found = self.wait_for(lambda: [e for e in self.events if e["event"] == name])
        return dict(found[0])

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(timeout=PATIENCE)
        for thread in self._readers:
            thread.join(PATIENCE)
        return code


@attrs.frozen
class Runner:
    """Starts commands with a home of their own."""

    home: Path
    commands: list[Command] = attrs.field(factory=list)

    def start(
        self, *arguments: str, program: Sequence[str] = ("-m", "muxfs"), **environ: str
    ) -> Command:
        """Start a command."""
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MUXFS_HOME": str(self.home), **environ},
        )
        command = Command(process)
        command.follow()
        self.commands.append(command)
        return command

    def run(self, *arguments: str, **environ: str) -> Command:
        """Run a command to its end."""
        command = self.start(*arguments, **environ)
        command.wait()
        return command


def running(home: Path) -> Iterator[Runner]:
    """Give a runner; what still runs at the end is killed."""
    runner = Runner(home)
    yield runner
    for command in runner.commands:
        if command.process.poll() is None:
            command.process.kill()
        command.wait()

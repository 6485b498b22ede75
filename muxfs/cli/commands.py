"""The life of `muxfs local`: a port, and a child for each of its connections."""

from __future__ import annotations

import argparse
import shlex

import trio

from muxfs.cli import forwarding, settings
from muxfs.cli.failures import USAGE, Failure
from muxfs.cli.journal import Journal
from muxfs.cli.output import Output
from muxfs.cli.signals import Stop
from muxfs.core.wire import Code
from muxfs.errors import printable
from muxfs.forwards.admission import Admission
from muxfs.forwards.commands import CommandCarrier
from muxfs.forwards.listener import ForwardListener
from muxfs.forwards.ports import OpenPort, open_port
from muxfs.forwards.routes import Route
from muxfs.forwards.spec import Forward, SpecError, parse_place


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal. Raises Failure."""
    if not args.command:
        raise Failure("give the command after --, as in: muxfs local 8888 -- COMMAND", USAGE)
    try:
        forward = Forward(parse_place(args.place))
    except SpecError as error:
        raise Failure(str(error), USAGE) from error
    return trio.run(_serve, args, forward)


async def _serve(args: argparse.Namespace, forward: Forward) -> int:
    output, admission = settings.output(args), Admission(args.any_user)
    try:
        port = await open_port(forward, admission)
    except OSError as error:
        raise forwarding.explain(forward, error) from error
    journal, words = Journal(output), printable(shlex.join(args.command))
    carrier = CommandCarrier(args.command, journal.happened, _Repeated(output).hear, args.most)
    listener = ForwardListener(
        carrier, port, admission, connect_timeout=0, route=Route(target=words)
    )
    stop = Stop()
    async with trio.open_nursery() as nursery:
        await nursery.start(stop.watch)
        nursery.start_soon(listener.run)
        nursery.start_soon(journal.tell_rest)
        stop.serving.set()
        _announce(output, port, words)
        await stop.requested.wait()
        nursery.cancel_scope.cancel()
    journal.closed(Code.SHUTDOWN.name, stop.name, stop.exit_code)
    return stop.exit_code


def _announce(output: Output, port: OpenPort, command: str) -> None:
    where = ", ".join(port.addresses) + (f" port {port.port}" if port.port else "")
    output.tell(
        "listening",
        f"  {where} -> {command}",
        bind=port.addresses[0],
        port=port.port,
        target=command,
        option="local",
    )


class _Repeated:
    """Tells what commands write on stderr; the same line again and again only once."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._last = ""

    def hear(self, line: str) -> None:
        if line != self._last:
            self._last = line
            self._output.tell("stderr", f"  {line}", text=line)

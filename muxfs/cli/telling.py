"""What one end of a tunnel tells people: what it opened, what to run elsewhere, what it sees."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from muxfs.blocking import in_thread
from muxfs.cli import hints
from muxfs.cli.end import End
from muxfs.cli.jobs import Watch
from muxfs.cli.journal import no_sign, unserved
from muxfs.cli.output import NORMAL, Output, ProgressLine
from muxfs.endpoint.endpoint import ActiveForward
from muxfs.endpoint.events import Event, SessionChange
from muxfs.forwards.ports import OpenPort
from muxfs.forwards.remote import RemoteListener
from muxfs.forwards.sessions import Sessions
from muxfs.forwards.spec import LOCALHOST, Forward, Kind, Target, loopback_alike
from muxfs.info import Established, Lost, PeerInfo, Silent

HINT_AFTER: Final = 60.0
"""Seconds without a sign of the other side until it is told what this side sees."""
NAME_TIMEOUT: Final = 2.0
"""Seconds that finding this host's full name may take."""


def tell_instead(end: End, active: Sequence[ActiveForward], number: int, forward: Forward) -> None:
    """Tell which port was taken in place of another one, also where only errors are told."""
    ports = [a.port for a in active if not isinstance(a, RemoteListener)]
    free = next(port.port for port in reversed(ports) if port.forward == forward)
    host, target = socket.gethostname(), forward.target or "the proxy"
    words = f"port {number} of {host} is in use: port {free} leads to {target} instead"
    end.output.complain(words)


async def announce(end: End, active: Sequence[ActiveForward], place: str) -> None:
    """Tell which ports are open, and what is to be run on the other hosts."""
    journal = end.journal
    ports = [a.port for a in active if not isinstance(a, RemoteListener)]
    for port in ports:
        journal.listening(port)
    say = end.output.say
    spelling = end.tunnel.spelling
    host = await _full_name() if ports else ""
    sealed = end.config().session.key is not None
    both = hints.options_of_both(end.most_sessions, insecure=end.insecure, sealed=sealed)
    if end.role == "listen":
        line = hints.dial_line(spelling, end.forwards)
        where = "on the host of the service, run:" if end.job is None else "in the job, if not yet:"
        say(f"  {where:<34} {line}{both}")
    else:
        what = ", ".join(map(str, end.policy.allow))
        say(f"  connects to {'any port of localhost' if what == 'localhost:*' else what}")
        job = end.own_job
        targets = end.policy.targets if end.child is not None else ()
        line = hints.listen_line(spelling, end.policy.allow, end.forwards, targets, job)
        say(f"  on the host of the clients, run:   {line}{both}")
    if ports and (ssh := hints.ssh_line(host, ports)):
        say(f"  on your own computer, run:         {ssh}")
        if end.job is not None:
            for line in hints.local_lines(host, spelling, ports):
                say(f"  or, where ssh forwards nothing:    {line}")
            say(f"  and open there:                    {', '.join(hints.urls(ports))}")
    journal.waiting(end.role, end.tunnel.path, place)


async def _full_name() -> str:
    name = ""
    # abandoned where a name server hangs; without a thread the short name does
    with trio.move_on_after(NAME_TIMEOUT), contextlib.suppress(OSError):
        name = await in_thread(socket.getfqdn)
    return socket.gethostname() if name.partition(".")[0] in {"", "localhost"} else name


class Teller:
    """Tells events; what happens before this end was announced is held until then."""

    def __init__(self, end: End, place: str, watch: Watch | None) -> None:
        self.sessions = Sessions()
        self._watch = watch
        self._end = end
        self._place = place
        self._held: list[Event] | None = []
        self._circular: list[int] = []
        """Ports that lead to themselves if the other side is on this host, too."""

    def __call__(self, event: Event) -> None:
        """Tell an event."""
        if self._held is not None:
            self._held.append(event)
            return
        journal = self._end.journal
        journal.happened(event)
        change = event.change if isinstance(event, SessionChange) else None
        if isinstance(change, Lost | Silent) and self._watch is not None:
            self._watch.following.hurry()  # the job may have ended, or have been requeued
        if isinstance(change, Established) and change.peer.host == socket.gethostname():
            for port in self._circular:
                self._end.output.say(f"  {to_itself(port)}")
        if isinstance(change, Lost) and not self.sessions.established:
            journal.waiting(self._end.role, self._end.tunnel.path, self._place)

    def begin(self, active: Sequence[ActiveForward]) -> None:
        """Tell what was held, and all that follows at once; `active` was announced."""
        ports = [a.port for a in active if not isinstance(a, RemoteListener)]
        self._circular = [port.port for port in ports if _may_be_circular(port)]
        held, self._held = self._held or [], None
        for event in held:
            self(event)


def _may_be_circular(port: OpenPort) -> bool:
    target = port.forward.target
    same = (
        isinstance(target, Target)
        and loopback_alike(target.host) == LOCALHOST
        and target.port == port.port
    )
    return same and port.forward.kind is Kind.LOCAL


def to_itself(port: int) -> str:
    """Say that a connection to a port would go round for ever."""
    return (
        f"both ends run on this host, so that port {port} leads to itself: start one of them on "
        f"the other host, or listen on another port, as by 0:{port}"
    )


async def _nobody() -> None:
    pass


async def remind(
    sessions: Sessions,
    tell: Callable[[str], None],
    place: str,
    after: float = HINT_AFTER,
    elsewhere: Callable[[], Awaitable[PeerInfo | None]] = _nobody,
) -> None:
    """Each time that nobody comes for `after` seconds, tell once what this side sees.

    elsewhere: finds one who is there, and looks at other sessions only.
    """
    while True:
        with trio.move_on_after(after) as patience:
            await sessions.wait_established()
        if patience.cancelled_caught:
            number, other = max(sessions.by_number, default=0), await elsewhere()
            births = [session.engine.peer for session in sessions.by_number.values()]
            peers = [PeerInfo.of(birth) for birth in births if birth is not None]
            if other is not None and not peers:
                tell(unserved(number, other))
            else:
                tell(no_sign(place, peers[0] if peers else None, after))
            await sessions.wait_established()
        await sessions.wait_lost()


class Preparation:
    """Shows how the mailbox file is filled, where that is wanted."""

    def __init__(self, output: Output) -> None:
        quiet = output.json or output.level < NORMAL
        self._line = None if quiet else ProgressLine(sys.stderr)

    def __call__(self, done: int, total: int) -> None:
        """Take note of `done` of `total` bytes."""
        if self._line is not None:
            self._line(done, total)

    def end(self) -> None:
        """Show nothing any more."""
        if self._line is not None:
            self._line.end()

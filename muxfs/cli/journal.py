"""What the two ends of a tunnel tell: each event once, in words and in fields."""

from __future__ import annotations

import os
from typing import Final

import attrs
import trio

from muxfs.cli.output import NORMAL, VERBOSE, Output
from muxfs.cli.sparing import Sparing
from muxfs.core.wire import Code
from muxfs.endpoint.events import Event, SessionChange, SessionFailed, SessionMoved
from muxfs.forwards import events
from muxfs.forwards.ports import OpenPort
from muxfs.forwards.spec import AnyTarget, Kind
from muxfs.info import (
    AccessChanged,
    Change,
    Established,
    Lost,
    PeerInfo,
    Resumed,
    Silent,
    StorageRecovered,
    StorageTrouble,
    Stranger,
)
from muxfs.units import amount, span

_KINDS: Final = {
    "refused": "refused",
    "lent": "listeners that the other side has here",
    "returned": "listeners that the other side has no more",
}
"""Events that others can cause at will, in words."""


@attrs.define(eq=False)
class Journal:
    """Puts events of one end into words and fields."""

    output: Output
    _sparing: dict[str, Sparing] = attrs.field(
        factory=lambda: {kind: Sparing() for kind in _KINDS}, init=False
    )
    _news: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Something was not told."""

    def listening(self, port: OpenPort) -> None:
        """Tell that a port is open."""
        forward = port.forward
        where = ", ".join(port.addresses) + (f" port {port.port}" if port.port else "")
        words = {
            Kind.LOCAL: f"{forward.target} of the other side",
            Kind.UDP: f"{forward.target} of the other side, by UDP",
            Kind.DYNAMIC: "a SOCKS proxy, which connects from the other side",
            Kind.HTTP: "an HTTP proxy, which connects from the other side",
        }
        self.output.tell(
            "listening",
            f"  {where} -> {words[forward.kind]}",
            bind=port.addresses[0],
            port=port.port,
            target="" if forward.target is None else str(forward.target),
            option=forward.kind.value,
        )

    def waiting(self, role: str, path: str, place: str) -> None:
        """Tell that there is no session yet, or no more."""
        self.output.tell(
            "waiting", "  waiting for the other side", role=role, path=path, filesystem=place
        )

    def happened(self, event: Event) -> None:
        """Tell what happened to a session or a connection."""
        match event:
            case SessionChange(session, change):
                self._changed(session, change)
            case SessionMoved(session):
                words = f"  another process uses session {session}; moving on to another one"
                self.output.tell("moved", words, session=session)
            case SessionFailed(session, reason):
                words = f"  session {session} failed: {reason}"
                self.output.tell("failed", words, session=session, reason=reason)
            case _:
                self._carried(event)

    def _changed(self, session: int, change: Change) -> None:
        def tell(event: str, words: str, **fields: object) -> None:
            place = f"session {session}: " if session else ""
            self.output.tell(event, f"  {place}{words}", NORMAL, session=session, **fields)

        match change:
            case Established(peer):
                tell("established", f"connected to {who(peer)}", **attrs.asdict(peer))
            case Lost(code, reason):
                words = f"lost the other side: {reason or code.name}"
                tell("lost", words, code=code.name, reason=reason)
            case Silent(seconds):
                words = f"no news from the other side for {span(seconds)}; connections wait"
                tell("silent", words, seconds=round(seconds, 3))
            case Resumed():
                tell("resumed", "the other side is back")
            case Stranger(reason):
                tell("stranger", reason, reason=reason)
            case StorageTrouble(error):
                text = error.strerror or str(error)
                words = f"trouble with the mailbox files: {text}; trying again"
                tell("storage", words, ok=False, error=text)
            case StorageRecovered():
                tell("storage", "the mailbox files work again", ok=True, error="")
            case AccessChanged(before, after):
                words = f"{before} missed what the other side wrote, or it missed ours"
                tell("access", f"{words}: {after} from now on", before=before, after=after)

    async def tell_rest(self) -> None:
        """Tell how many events were not told, each time that their minute is over."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await trio.sleep_until(max(sparing.over for sparing in self._sparing.values()))
            self._tell_rest()

    def _tell_rest(self) -> None:
        for kind, sparing in self._sparing.items():
            if count := sparing.rest():
                words = f"  and {count} more {_KINDS[kind]}, within a minute (-v tells each)"
                self.output.tell("more", words, of=kind, count=count)

    def _told(self, kind: str) -> bool:
        """Whether one more of these is to be told."""
        if self.output.level >= VERBOSE or self._sparing[kind].take(trio.current_time()):
            return True
        self._news.set()
        return False

    def _carried(self, event: events.Event) -> None:
        tell = self.output.tell
        match event:
            case events.Opened() | events.Ended() if not self.output.tells(VERBOSE):
                pass  # words that nobody reads cost 20 us of a connection
            case events.Opened(originator, target):
                words = f"  opened {originator} -> {target}"
                tell("opened", words, VERBOSE, originator=originator, target=target)
            case events.Ended(originator, target, sent, received, clean):
                how = "" if clean else ", reset"
                tell(
                    "ended",
                    f"  ended {originator} -> {target}: "
                    f"{amount(sent)} sent, {amount(received)} received{how}",
                    VERBOSE,
                    **attrs.asdict(event),
                )
            case events.Refused(originator, target, code, reason) if self._told("refused"):
                tell(
                    "refused",
                    f"  refused {originator}{f' -> {target}' if target else ''}: "
                    f"{reason or code.name}",
                    originator=originator,
                    target=target,
                    code=code.name,
                    reason=reason,
                )
            case events.Overloaded(reason):
                tell("overloaded", f"  {reason}; trying again", reason=reason)
            case events.Listening(forward, bound):
                words = f"  {forward}: the other side listens on {bound}"
                tell("remote-listening", words, forward=forward, bound=bound)
            case events.NotListening(forward, code, reason):
                words = f"  {forward}: the other side does not listen: {reason or code.name}"
                tell("remote-refused", words, forward=forward, code=code.name, reason=reason)
            case events.Lent(place) if self._told("lent"):
                tell("lent", f"  the other side has this one listen on {place}", place=place)
            case events.Returned(place) if self._told("returned"):
                tell("returned", f"  no more listening on {place} for the other side", place=place)

    def answers(self, target: AnyTarget, seconds: float, owner: int | None) -> None:
        """Tell that somebody listens at a target of this host."""
        words = f"  {target} answers, after {span(seconds)}"
        if owner not in {None, os.geteuid()}:
            words = f"  {target} is in use by another user (uid {owner})"
        place = str(target)
        self.output.tell("ready", words, target=place, seconds=round(seconds, 3), owner=owner)

    def never_answered(self, target: AnyTarget) -> None:
        """Tell that nobody ever listened there."""
        words = f"  the command ended, and nothing had answered at {target}"
        self.output.tell("not-ready", words, target=str(target))

    def closed(self, code: str, reason: str, exit_code: int) -> None:
        """Tell the end of all."""
        self._tell_rest()
        # a failure was told already
        words = "  ended" if code == Code.SHUTDOWN.name else ""
        self.output.tell("closed", words, code=code, reason=reason, exit=exit_code)

    def hint(self, words: str, seconds: float, command: str) -> None:
        """Tell that nobody came for long, and the command that finds out why."""
        text = f"{words} To find out, run on both hosts:   {command}"
        self.output.tell("hint", f"  {text}", seconds=round(seconds, 3), text=text)


def who(peer: PeerInfo) -> str:
    """Say who the other side is."""
    words = [peer.host or "an unnamed host"]
    if peer.pid is not None:
        words.append(f"pid {peer.pid}")
    if peer.user:
        words.append(f"user {peer.user}")
    if peer.label:
        words.append(peer.label)
    return ", ".join(words)


def unserved(session: int, other: PeerInfo) -> str:
    """Say that the other side is there, and has fewer sessions than this one."""
    return (
        f"the other side ({who(other)}) is there, and does not look at session {session}, which "
        f"this side has: the others are in use. Start it with --sessions {session + 1} or more; "
        "both sides need the same."
    )


def no_sign(place: str, peer: PeerInfo | None, seconds: float) -> str:
    """Say what this side sees, when nobody answers."""
    if peer is not None:
        return (
            f"no answer for {span(seconds)}. There is a file of {who(peer)} in {place}, "
            "but it does not know of this side: it was killed, or it sees other files "
            f"than this host ({os.uname().nodename})."
        )
    return (
        f"no sign of the other side for {span(seconds)}. This side waits in {place}. "
        "Does the other side have the same directory, filesystem and server? "
        "Two local directories of one name are a common mistake."
    )

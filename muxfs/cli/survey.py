"""What `muxfs status` finds out: who lives at the two ends of tunnels. Trio-free.

Rule: files of other hosts are hostile; what they say is checked and escaped.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from muxfs import process
from muxfs.cli import overview
from muxfs.cli import tunnel as tunnels
from muxfs.cli.failures import NO_INPUT, Failure, exit_code_of
from muxfs.cli.outlook import Here, age, ends_here, jobs_of_tunnels
from muxfs.cli.patience import Answers, Unanswered
from muxfs.cli.seals import blocks_for, remark
from muxfs.core import wire
from muxfs.core.link import previous_life
from muxfs.core.proof import CHECKSUM_BLOCKS, Blocks
from muxfs.core.wire import (
    Birth,
    Code,
    IncompatibleVersion,
    ItemType,
    ProtocolViolation,
    Role,
    Status,
)
from muxfs.errors import printable
from muxfs.sealing.key import Key
from muxfs.slurm.queue import Job
from muxfs.storage.filesystem import default_access, find_filesystem, guess_filesystem
from muxfs.units import amount, span

FOLLOW_INTERVAL: Final = 5.0
"""Seconds between pictures: each may ask Slurm."""
LOOK_INTERVAL: Final = 0.2
"""Seconds between looks at ends whose beat must be seen to move."""
MOST_HEARTBEAT: Final = 30.0
"""Seconds that an end is watched at the most, whatever heartbeat it claims."""

MOST_WORDS: Final = 64

Number = int | float


@attrs.frozen
class View:
    """A mailbox file as it was seen at one moment."""

    birth: Birth | None = None
    status: Status | None = None
    trouble: str = ""
    """Why there is nothing to be seen."""
    remark: str = ""
    """Why it is only a part, or not to be believed."""

    @property
    def signs(self) -> tuple[object, ...]:
        """Change as long as the writer lives."""
        return (self.birth and self.birth.incarnation, self.status and self.status.beat)

    @property
    def report(self) -> dict[str, Number]:
        """What the writer counts, as far as it makes sense."""
        return {
            printable(key): value
            for key, value in self._told.items()
            if isinstance(value, int | float)
            and not isinstance(value, bool)
            and math.isfinite(value)
        }

    @property
    def access(self) -> str:
        """How the writer reads and writes the files, in its words."""
        value = self._told.get("access")
        return printable(value[:MOST_WORDS]) if isinstance(value, str) else ""

    @property
    def _told(self) -> dict[str, object]:
        try:
            values = json.loads(self.status.text(ItemType.REPORT)) if self.status else {}
        except (ValueError, RecursionError):
            return {}
        return values if isinstance(values, dict) else {}


@attrs.frozen
class Look:
    """What one look at a mailbox file has found."""

    view: View
    age: float | None
    """Seconds since the file was written last."""
    at: float
    """When it was."""


@attrs.define
class Side:
    """One end of a session, watched."""

    role: Role
    path: str
    blocks: Blocks = CHECKSUM_BLOCKS
    first: View = View()
    last: View = View()
    alive: bool | None = None
    """None: not known yet."""
    age: float | None = None
    """Seconds since the file was written last, when it was looked at."""
    since: float | None = None
    """When it was looked at first."""

    def look(self) -> Look:
        """Look at the file. Changes nothing here, so that a thread may do it that is given up."""
        at = time.monotonic()
        return Look(read(self.path, self.role, self.blocks), age(self.path), at)

    def take(self, look: Look) -> None:
        """Judge by one more look."""
        self.last, self.age = look.view, look.age
        if self.since is None:
            self.since = look.at
        if self.first.birth is None:
            self.first = self.last
        self.alive = self._judge()
        if self.alive is None and look.at - self.since > self.patience:
            self.alive = False

    def _judge(self) -> bool | None:
        birth, status = self.last.birth, self.last.status
        if birth is None or (status is not None and status.closed):
            return False
        known = process.is_alive(birth.text(ItemType.PROCESS))
        if known is None and self.last.signs != self.first.signs:
            return True
        return known

    @property
    def patience(self) -> float:
        """Seconds after which no sign of life means that there is none."""
        heartbeat = self.last.birth.heartbeat / 1000 if self.last.birth else 0.0
        return 1.25 * min(heartbeat, MOST_HEARTBEAT) + 0.5

    @property
    def condition(self) -> str:
        """Say in a word how it is."""
        if self.last.birth is None:
            return "absent"
        if self.alive:
            return "alive"
        return "ended" if self.last.status and self.last.status.closed else "dead"

    def facts(self) -> dict[str, object]:
        """Return what is known, for programs."""
        birth, status = self.last.birth, self.last.status
        facts: dict[str, object] = {"condition": self.condition, "trouble": self.last.trouble}
        facts["age"] = self.age
        if self.last.remark:
            facts["remark"] = self.last.remark
        if birth is not None:
            facts |= {
                "host": printable(birth.text(ItemType.HOST)),
                "pid": process.pid_of(birth.text(ItemType.PROCESS)),
                "user": printable(birth.text(ItemType.USER)),
                "started": printable(birth.text(ItemType.STARTED)),
                "software": printable(birth.text(ItemType.SOFTWARE)),
                "label": printable(birth.text(ItemType.LABEL)),
                "generation": birth.incarnation.generation,
            }
        if status is not None:
            facts |= {
                "beat": status.beat,
                "access": self.last.access,
                "report": self.last.report,
            }
            if status.closed:
                reason = printable(status.text(ItemType.REASON))
                facts |= {"code": status.code.name, "reason": reason}
        return facts


@attrs.define
class Session:
    """Both ends of one session of a tunnel."""

    name: str
    listen: Side
    dial: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both ends."""
        return self.listen, self.dial

    @property
    def was_used(self) -> bool:
        """Whether anybody has ever opened it."""
        return any(os.path.lexists(side.path) for side in self.sides)

    @property
    def state(self) -> str:
        """Say how the session is; see the command's help."""
        living = sum(bool(side.alive) for side in self.sides)
        if not living:
            return "ended"
        if not _echoes(self.listen, self.dial) or not _echoes(self.dial, self.listen):
            return "waiting"
        if living == 2:
            return "established"
        dead = self.dial if self.listen.alive else self.listen
        return "waiting" if dead.condition == "ended" else "silent"


def _echoes(one: Side, other: Side) -> bool:
    status, birth = one.last.status, other.last.birth
    return status is not None and birth is not None and status.echo == birth.incarnation


@attrs.define
class Found:
    """A tunnel and its sessions."""

    name: str
    path: str
    place: str
    sessions: list[Session]
    job: Job | None = None
    """Whose own tunnel it is."""
    here: list[Here] = attrs.field(factory=list)
    """Ends that run on this host."""
    real_path: str = ""
    unanswered: Unanswered | None = None
    """Why nothing is known of its files."""

    @property
    def sides(self) -> list[Side]:
        """Both ends of each session."""
        return [side for session in self.sessions for side in session.sides]

    @property
    def ports(self) -> list[str]:
        """Those that are open on this host."""
        return [port for end in self.here if end.role == "listen" for port in end.ports]

    @property
    def state(self) -> str:
        """Say how it is, if it has no more than one session."""
        if self.unanswered is not None:
            return "no answer"
        return self.sessions[0].state if self.sessions else "not used yet"

    def give_up(self, why: Unanswered) -> None:
        """Leave its files alone: nobody waits any more for what they may show."""
        for side in self.sides:
            side.alive = False
        self.unanswered, self.sessions = why, []


def show(text: str | None, *, as_json: bool, key: Key | None = None) -> int:
    """Print all of one tunnel, or a line for each. Raises Failure."""
    return _show(text, as_json, key, Answers())


def _show(text: str | None, as_json: bool, key: Key | None, answers: Answers) -> int:
    found = _find_all(key, answers) if text is None else [_find(text, key, answers)]
    known, silent = jobs_of_tunnels(tunnel.name for tunnel in found)
    _watch(found, answers)
    for tunnel in found:
        # else nothing is shown of those that dial, and one that does not answer takes seconds
        all_ends = as_json or tunnel.unanswered is not None
        roles = (Role.LISTEN, Role.DIAL) if all_ends else (Role.LISTEN,)
        tunnel.job, tunnel.here = known.get(tunnel.name), ends_here(tunnel.real_path, roles)
    if as_json:
        print(json.dumps({"tunnels": [_facts(tunnel) for tunnel in found], "slurm": silent}))
    elif text is not None:
        _print(found[0])
    elif found:
        print(*overview.lines(found), sep="\n")
    else:
        print(f"no tunnels in {printable(tunnels.tunnels_home())}")
    if silent and not as_json:
        print(f"Slurm does not answer, so that nothing is said of jobs: {silent}")
    if text is not None and found[0].unanswered is not None:
        raise found[0].unanswered
    return 0


def follow(text: str | None, *, as_json: bool, key: Key | None = None) -> int:
    """Do so again and again: on a terminal in the place of what was there before."""
    clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() and not as_json else ""
    answers = Answers()
    while True:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            try:
                _show(text, as_json, key, answers)
            except Unanswered as why:  # perhaps it does for the next picture
                print(f"muxfs: {why}", file=sys.stderr if as_json else said)
        print(clear + said.getvalue(), end="", flush=True)
        time.sleep(FOLLOW_INTERVAL)


def watch(sides: Sequence[Side]) -> None:
    """Look until it is clear of each end whether it lives. Blocks while the server is down."""

    def look(unclear: Sequence[Side]) -> None:
        for side in unclear:
            side.take(side.look())

    _watch_by(look, sides)


def _watch(found: Sequence[Found], answers: Answers) -> None:
    """Do the same for tunnels, and give up those that do not answer."""
    owners = {side.path: tunnel for tunnel in found for side in tunnel.sides}

    def look(sides: Sequence[Side]) -> None:
        looks = answers.of_all({side.path: side.look for side in sides})
        for side in sides:
            owner = owners[side.path]
            match looks[side.path]:
                case Unanswered():
                    owner.give_up(Unanswered(owner.path))
                case seen if owner.unanswered is None:
                    side.take(seen)

    _watch_by(look, [side for tunnel in found for side in tunnel.sides])


def _watch_by(look: Callable[[Sequence[Side]], None], sides: Sequence[Side]) -> None:
    unclear = sides
    look(unclear)
    while unclear := [side for side in unclear if side.alive is None]:
        time.sleep(LOOK_INTERVAL)
        look(unclear)


def _find(text: str, key: Key | None, answers: Answers) -> Found:
    path = tunnels.resolve(text).path
    try:
        return answers.of(path, lambda: _examine(text, path, key))
    except Unanswered as why:
        return _unknown(text, path, why)
    except FileNotFoundError:
        raise Failure(f"no such tunnel: {path}", NO_INPUT) from None
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}", exit_code_of(error)) from error


def _find_all(key: Key | None, answers: Answers) -> list[Found]:
    home = tunnels.tunnels_home()
    try:
        names = sorted(answers.of(home, lambda: os.listdir(home)), key=_natural)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Failure(f"cannot read {home}: {error.strerror}", exit_code_of(error)) from error
    paths = {os.path.join(home, name): name for name in names}
    found = answers.of_all(
        {path: functools.partial(_examine_if_any, name, path, key) for path, name in paths.items()}
    )
    return [
        _unknown(paths[path], path, tunnel) if isinstance(tunnel, Unanswered) else tunnel
        for path, tunnel in found.items()
        if tunnel is not None
    ]


def _unknown(name: str, path: str, why: Unanswered) -> Found:
    place = f"{path} on {guess_filesystem(path).describe()}"
    return Found(name, path, place, [], real_path=path, unanswered=why)


def _examine_if_any(name: str, path: str, key: Key | None) -> Found | None:
    try:
        return _examine(name, path, key)
    except OSError:
        return None  # a file, or a tunnel that is being removed


def _natural(name: str) -> list[str | int]:
    """Return what puts job 9 before job 10."""
    parts = re.split(r"(\d+)", name, flags=re.ASCII)
    return [int(part) if at % 2 else part for at, part in enumerate(parts)]


def _examine(name: str, path: str, key: Key | None) -> Found:
    sessions = os.path.join(path, tunnels.SESSIONS)
    numbers = sorted(int(name) for name in os.listdir(sessions) if name.isdecimal())
    place = f"{path} on {find_filesystem(path).describe()}"
    found = [_session(sessions, str(number), key) for number in numbers]
    used = [session for session in found if session.was_used]
    return Found(name, path, place, used, real_path=os.path.realpath(path))


def _session(sessions: str, number: str, key: Key | None = None) -> Session:
    directory = os.path.join(sessions, number)
    blocks = blocks_for(key, directory)
    listen, dial = (
        Side(role, os.path.join(directory, role.file_name), blocks)
        for role in (Role.LISTEN, Role.DIAL)
    )
    return Session(number, listen, dial)


def read(path: str, role: Role, blocks: Blocks = CHECKSUM_BLOCKS) -> View:
    """Look at a mailbox file as its server has it now."""
    try:
        head = _head(path)
    except FileNotFoundError:
        return View(trouble="no file")
    except OSError as error:
        return View(trouble=error.strerror or str(error))
    return decode(head, role, blocks)


def is_used(path: str, role: Role) -> bool:
    """Whether somebody lives at that end of a tunnel. Blocks for a heartbeat, where it must.

    Raises OSError where it cannot be looked at.
    """
    try:
        sessions = _examine(path, path, None).sessions
    except (FileNotFoundError, NotADirectoryError):
        return False  # no tunnel: nobody is there
    sides = [side for session in sessions for side in session.sides if side.role is role]
    watch(sides)
    return any(side.alive for side in sides)


def heads(path: str) -> dict[str, bytes]:
    """Read the heads of a tunnel's mailboxes: they change as long as somebody is at work there.

    Raises OSError.
    """
    found: dict[str, bytes] = {}
    for directory, _, names in os.walk(os.path.join(path, tunnels.SESSIONS)):
        for name in {role.file_name for role in Role}.intersection(names):
            mailbox = os.path.join(directory, name)
            with contextlib.suppress(FileNotFoundError):
                found[mailbox] = _head(mailbox)
    return found


def _head(path: str) -> bytes:
    """Read it as the server has it now. Raises OSError."""
    directory = os.path.dirname(path)
    # makes network filesystems look the name up afresh
    os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    access = default_access(find_filesystem(directory)).read
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = access.open(path, flags)
    try:
        return access.read(descriptor, 0, wire.HEAD_LENGTH)
    finally:
        os.close(descriptor)


def decode(head: bytes, role: Role, blocks: Blocks = CHECKSUM_BLOCKS) -> View:
    """Decode the head of a mailbox: what the key proves, or what everybody can read."""
    page = head[: wire.PAGE]
    try:
        birth = wire.decode_birth(page)
    except IncompatibleVersion as error:
        return View(trouble=f"written by another muxfs, with {error}")
    except ProtocolViolation as error:
        return View(trouble=str(error))
    if birth is None:
        return View(trouble="nothing valid in the file")
    life = previous_life(head, role, blocks)
    if life is None:
        return View(trouble="nothing valid in the file")
    return View(life.birth, life.status, remark=remark(page, blocks))


# Words


def _facts(tunnel: Found) -> dict[str, object]:
    sessions = [
        {
            "session": session.name,
            "state": session.state,
            "listen": session.listen.facts(),
            "dial": session.dial.facts(),
        }
        for session in tunnel.sessions
    ]
    job = tunnel.job
    return {
        "tunnel": tunnel.name,
        "path": tunnel.path,
        "place": tunnel.place,
        "sessions": sessions,
        "job": None if job is None else attrs.asdict(job) | {"ended": job.ended},
        "ports": tunnel.ports,
        "here": [attrs.asdict(end) for end in tunnel.here],
        "trouble": str(tunnel.unanswered or ""),
    }


def _print(tunnel: Found) -> None:
    several = len(tunnel.sessions) > 1
    state = f"{len(tunnel.sessions)} sessions" if several else tunnel.state
    print(f"{printable(tunnel.name)}: {state}  ({printable(tunnel.place)})")
    if tunnel.job is not None:
        print(f"  job     {tunnel.job.ending if tunnel.job.ended else tunnel.job.words}")
    if tunnel.ports:
        print(f"  ports   {', '.join(tunnel.ports)}")
    if tunnel.unanswered is not None:
        for end in tunnel.here:
            peers = f", connected with {', '.join(end.peers)}" if end.peers else ""
            print(f"  {end.role:<6}  runs on this host: pid {end.pid}{peers}")
    for session in tunnel.sessions:
        if several:
            print(f"  session {session.name}: {session.state}")
        for side in session.sides:
            for line in _describe(side):
                print(f"  {line}")


def _describe(side: Side) -> Iterator[str]:
    role = f"{side.role.name.lower():<6}"
    birth = side.last.birth
    if birth is None:
        yield f"{role}  {side.condition}: {side.last.trouble}"
        return
    facts = side.facts()
    who = [str(facts["host"])] if facts["host"] else []
    if facts["pid"] is not None:
        who.append(f"pid {facts['pid']}")
    if facts["user"]:
        who.append(f"user {facts['user']}")
    if facts["label"]:
        who.append(str(facts["label"]))
    if facts["started"]:
        who.append(f"since {facts['started']}")
    if facts["age"] is not None and not side.alive:
        who.append(f"last sign of life {span(side.age or 0.0)} ago")
    if side.last.remark:
        who.append(side.last.remark)
    # the reason of a good end is written for the other side
    good = facts.get("code") == Code.SHUTDOWN.name
    reason = "in good order" if good else facts.get("reason") or facts.get("code")
    end = f" ({reason})" if reason else ""
    yield f"{role}  {side.condition}{end}: {', '.join(who) or 'an unnamed host'}"
    if counts := _counts(side.last.report):
        yield f"        {counts}"
    if access := side.last.access:
        changes = side.last.report.get("escalations")
        changed = f", changed {changes:.0f} times since it was proven wrong" if changes else ""
        yield f"        files by {access}{changed}"


def _counts(report: dict[str, Number]) -> str:
    words = []
    if "streams" in report:
        words.append(f"{report['streams']:.0f} streams of {report.get('opened', 0):.0f}")
    for key, word in (("bytes_written", "written"), ("bytes_read", "read")):
        if key in report:
            words.append(f"{amount(report[key])} {word}")
    if "round_trip" in report:
        words.append(f"round trip {span(max(0.0, report['round_trip']))}")
    if "operations_per_second" in report:
        words.append(f"{report['operations_per_second']:.3g} file operations/s")
    for key, word in (("torn", "torn"), ("stale", "stale"), ("rewritten", "rewritten")):
        if report.get(key):
            words.append(f"{report[key]:.0f} {word}")
    return ", ".join(words)

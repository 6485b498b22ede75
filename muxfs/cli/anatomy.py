"""What stands in a mailbox file, in words; robust against any bytes. Trio-free.

Rule: texts out of the file go through `printable`, lengths out of it are checked
before anything is read by them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, ParamSpec, TypeVar

import attrs

from muxfs.cli.failures import NO_INPUT, Failure, exit_code_of
from muxfs.cli.patience import Answers, Unanswered
from muxfs.cli.seals import blocks_for, remark
from muxfs.core import wire
from muxfs.core.link import proven_birth
from muxfs.core.proof import Blocks
from muxfs.core.wire import (
    ALIGNMENT,
    BATCH_HEADER,
    BATCH_MAGIC,
    PAGE,
    Birth,
    Code,
    Frame,
    FrameType,
    Incarnation,
    IncompatibleVersion,
    ItemType,
    ProtocolViolation,
    Role,
    Status,
)
from muxfs.errors import printable
from muxfs.sealing.key import Key
from muxfs.units import amount, span

DATA_ERROR: Final = os.EX_DATAERR
PIECE: Final = 1 << 20
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
MAX_FRAMES_SHOWN: Final = 40

P = ParamSpec("P")
T = TypeVar("T")

_MARKER = struct.Struct("!QQ")


@attrs.frozen
class Found:
    """A batch in the ring."""

    offset: int
    epoch: int
    position: int
    ack: int
    length: int
    frame_count: int
    pad: bool
    whole: bool
    """Whether its checksum holds."""
    sealed: bool
    """Whether only the two sides can tell what is in it, and whether it is whole."""


def explain(path: str, *, batches: int, key: Key | None = None) -> int:
    """Print what is in a file; the last `batches` of its ring, 0 for all. Raises Failure."""
    answers = Answers()
    try:
        descriptor = answers.of(path, lambda: os.open(path, _FLAGS))
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}", exit_code_of(error)) from error
    file = _File(path, descriptor, answers)
    try:
        found = file.asked(os.fstat, descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Failure(f"{path} is not a file", NO_INPUT)
        blocks = blocks_for(key, os.path.dirname(os.path.abspath(path)))
        return _explain_open(file, found.st_size, batches, blocks)
    except _Unreadable as failed:
        why = failed.error
        raise Failure(f"cannot read {path}: {why.strerror}", exit_code_of(why)) from why
    finally:
        with contextlib.suppress(Unanswered):
            answers.of(path, lambda: os.close(descriptor))


class _Unreadable(Exception):
    """Reading failed; printing fails with OSError, too, which says nothing of the file."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


@attrs.define
class _File:
    """An open file, read in large pieces: each waits for its server in a thread of its own."""

    path: str
    descriptor: int
    answers: Answers
    _piece: bytes = b""
    _start: int = 0

    def read(self, length: int, offset: int) -> bytes:
        """Read so many bytes, less at the end of the file. Raises _Unreadable, Unanswered."""
        if not self._start <= offset <= offset + length <= self._start + len(self._piece):
            whole = max(length, PIECE)
            self._piece = self.asked(os.pread, self.descriptor, whole, offset)
            self._start = offset
        at = offset - self._start
        return self._piece[at : at + length]

    def asked(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call something that may hang. Raises _Unreadable, Unanswered."""
        try:
            return self.answers.of(self.path, functools.partial(call, *args, **options))
        except OSError as error:
            raise _Unreadable(error) from error


def _explain_open(file: _File, size: int, batches: int, blocks: Blocks) -> int:
    path = file.path
    head = file.read(wire.HEAD_LENGTH, 0)
    print(f"{printable(path)}: {size} bytes")
    birth = _print_birth(head, blocks)
    named = Role.LISTEN if os.path.basename(path) == Role.LISTEN.file_name else Role.DIAL
    newest = _print_statuses(head, blocks, birth.role if birth else named)
    start = birth.ring_offset if birth else wire.RING_OFFSET
    end = min(size, start + birth.capacity) if birth else size
    if birth and size < start + birth.capacity:
        print(f"\nthe file is shorter than its ring: {start + birth.capacity} bytes are due")
    epoch = _current_epoch(birth, newest)
    found = list(scan(file, start, end, birth.capacity if birth else None, epoch))
    _print_ring(file, found, epoch, batches)
    return 0 if birth or newest or any(batch.whole for batch in found) else DATA_ERROR


# Head


def _print_birth(head: bytes, blocks: Blocks) -> Birth | None:
    print("\nbirth block")
    try:
        birth = wire.decode_birth(head[:PAGE])
    except IncompatibleVersion as error:
        _line("version", f"{error.major}.{error.minor}, which this muxfs does not understand")
        return None
    except ProtocolViolation as error:
        _line("not valid", str(error))
        return None
    if birth is None:
        _line("not valid", _why_not(head[:PAGE], wire.BIRTH_MAGIC))
        return None
    birth = proven_birth(head, birth.role, blocks) or birth
    _line("written by", f"the {birth.role.name.lower()} side")
    if said := remark(head[:PAGE], blocks):
        _line("key", said)
    elif blocks.keyed:
        _line("key", "sealed with the key given")
    if not (said and birth.item(ItemType.SEALED)):
        _print_people(birth)
    _line("incarnation", _incarnation(birth.incarnation))
    _line("version", f"{wire.VERSION_MAJOR}.{birth.version_minor}")
    _line("features", f"{birth.features_offered:#x} offered, {birth.features_required:#x} required")
    _line("ring", f"{amount(birth.capacity)} at offset {birth.ring_offset}")
    _line(
        "limits",
        f"batches of {amount(birth.max_batch)}, {birth.max_streams} streams, "
        f"{amount(birth.initial_credit)} of credit at first",
    )
    timeout = span(birth.peer_timeout / 1000) if birth.peer_timeout else "never"
    _line("heartbeat", f"{span(birth.heartbeat / 1000)}; gives a silent peer up after: {timeout}")
    return birth


def _print_people(birth: Birth) -> None:
    for item in (ItemType.SOFTWARE, ItemType.HOST, ItemType.PROCESS, ItemType.USER):
        _line(item.name.lower(), _text(birth.text(item)))
    _line("started", _text(birth.text(ItemType.STARTED)))
    if birth.text(ItemType.LABEL):
        _line("label", _text(birth.text(ItemType.LABEL)))


def _print_statuses(head: bytes, blocks: Blocks, writer: Role) -> Status | None:
    def decode(page: bytes) -> Status | None:
        return blocks.decode_status(page, writer) or wire.clear_status(page)

    statuses = wire.decode_statuses(head, decode)
    newest = statuses[-1] if statuses else None
    for slot in (0, 1):
        page = head[PAGE * (slot + 1) : PAGE * (slot + 2)]
        status = decode(page)
        if status is None:
            print(f"\nstatus slot {slot}: not valid: {_why_not(page, wire.STATUS_MAGIC)}")
            continue
        print(f"\nstatus slot {slot}: {'newest' if status == newest else 'older'}")
        if blocks.decode_status(page, writer) is None:
            found = wire.split_status(page)
            sealed = found is not None and found.flags & wire.STATUS_SEALED
            _line("key", "sealed, and not proven" if sealed else "not sealed")
        _print_status(status)
    return newest


def _print_status(status: Status) -> None:
    _line("beat", f"{status.beat} of {_incarnation(status.incarnation)}")
    _line("echo", _incarnation(status.echo) if status.echo else "nobody was seen yet")
    _line("positions", f"written {status.write_position}, read {status.read_position}")
    if status.closed:
        reason = printable(status.text(ItemType.REASON))
        _line("closed", status.code.name + (f": {reason}" if reason else ""))
    if report := status.text(ItemType.REPORT):
        _line("report", printable(report))


def _incarnation(incarnation: Incarnation) -> str:
    return f"generation {incarnation.generation}, nonce {incarnation.nonce.hex()}"


def _text(text: str) -> str:
    return printable(text) or "(not told)"


def _why_not(page: bytes, magic: bytes) -> str:
    if not page.strip(b"\0"):
        return "zeros" if page else "the file ends before it"
    if page[: len(magic)] != magic:
        return "it does not begin with the magic bytes"
    return "length or checksum are wrong (torn, or damaged)"


def _line(name: str, text: str) -> None:
    print(f"  {name:<12} {text}")


# Ring


def _current_epoch(birth: Birth | None, status: Status | None) -> int | None:
    if birth is None or status is None or status.echo is None:
        return None
    pair = (status.incarnation, status.echo)
    epoch = wire.epoch_of(*(pair if birth.role is Role.DIAL else pair[::-1]))
    return wire.batch_epoch(epoch, birth.role)


def scan(
    file: _File, start: int, end: int, capacity: int | None, epoch: int | None
) -> Iterator[Found]:
    """Find batches, whole ones and broken ones of `epoch`, in the order of their offsets."""
    skip_to = start
    for offset in _candidates(file, start, end):
        if offset < skip_to:
            continue  # inside of a batch: what streams carry may look like anything
        head = file.read(BATCH_HEADER, offset)
        found = _examine(file, head, offset, end)
        if found is None:
            continue
        in_place = capacity is None or found.position % capacity == offset - start
        if found.sealed and in_place:
            yield found
        elif found.whole and in_place:
            skip_to = offset + wire.align(found.length)
            yield found
        elif found.epoch == epoch and in_place:
            yield found


def _candidates(file: _File, start: int, end: int) -> Iterator[int]:
    for base in range(start, end, PIECE):
        piece = file.read(min(PIECE, end - base), base)
        at = piece.find(BATCH_MAGIC)
        while at >= 0:
            if at % ALIGNMENT == 0:
                yield base + at
            # the next one can stand only at the next multiple of 64
            at = piece.find(BATCH_MAGIC, at + 1)


def _examine(file: _File, head: bytes, offset: int, end: int) -> Found | None:
    if len(head) < BATCH_HEADER:
        return None
    epoch, position = _MARKER.unpack_from(head, wire.MARKER_OFFSET)
    header = wire.decode_batch_header(head, epoch, position)
    if header is None or position % ALIGNMENT:
        return None
    length = header.length
    fits = length <= min(wire.MAX_MAX_BATCH, end - offset)
    data = file.read(length, offset) if fits and not header.sealed else b""
    whole = fits and len(data) == length and wire.verify_batch(memoryview(data))
    return Found(
        offset,
        epoch,
        position,
        header.ack,
        length,
        header.frame_count,
        header.pad,
        whole,
        header.sealed,
    )


def _print_ring(file: _File, found: list[Found], epoch: int | None, most: int) -> None:
    name = f"{epoch:016x}" if epoch is not None else "unknown, since no peer is known"
    print(f"\nring, current epoch {name}")
    others = Counter(batch.epoch for batch in found if batch.epoch != epoch)
    for other, count in others.most_common(5):
        _line("earlier", f"{count} batches of epoch {other:016x}")
    if len(others) > 5:
        _line("earlier", f"{len(others) - 5} more epochs")
    current = sorted((b for b in found if b.epoch == epoch), key=lambda batch: batch.position)
    if epoch is None and found:  # the best that can be shown
        current = sorted(found, key=lambda batch: (batch.epoch, batch.position))
    shown = current[-most:] if most else current
    if len(current) > len(shown):
        _line("batches", f"{len(current)}, of which the last {len(shown)} follow")
    elif not current:
        _line("batches", "none")
    for batch in shown:
        _print_batch(file, batch)


def _print_batch(file: _File, batch: Found) -> None:
    kind = "the rest of the ring is skipped" if batch.pad else _frames(batch.frame_count)
    print(
        f"  position {batch.position} at offset {batch.offset}: "
        f"{batch.length} bytes, ack {batch.ack}, {kind}"
    )
    if batch.sealed:
        print("    sealed: only the two sides could read it")
        return
    if not batch.whole:
        print("    not whole: its checksum does not hold (torn, or overwritten)")
        return
    data = file.read(batch.length, batch.offset)
    try:
        frames = wire.decode_frames(memoryview(data)[BATCH_HEADER:], batch.frame_count)
        for number, frame in enumerate(frames):
            if number == MAX_FRAMES_SHOWN:
                print(f"    and {batch.frame_count - number} more")
                break
            print(f"    {describe(frame)}")
    except ProtocolViolation as error:
        print(f"    broken: {error}")


def describe(frame: Frame) -> str:
    """Describe a frame in one line, without the bytes that it carries."""
    try:
        kind = FrameType(frame.type)
    except ValueError:
        return f"type {frame.type:#04x}, stream {frame.stream_id}, {len(frame.payload)} bytes"
    words = [f"{kind.name:<6} stream {frame.stream_id}"]
    match kind:
        case FrameType.OPEN:
            words.append(_describe_open(frame))
        case FrameType.ACCEPT:
            words.append(f"bound to {_payload(frame)}")
        case FrameType.DATA:
            fin = ", FIN" if frame.flags & wire.FLAG_FIN else ""
            words.append(f"sequence {frame.sequence}, {len(frame.payload)} bytes{fin}")
        case FrameType.CREDIT:
            words.append(f"up to {frame.sequence}")
        case FrameType.STOP | FrameType.RESET:
            reason = _payload(frame)
            words.append(f"sequence {frame.sequence}, {_code(frame.code)} {reason}".rstrip())
        case _:
            words.append(f"{len(frame.payload)} bytes")
    return " ".join(words)


def _describe_open(frame: Frame) -> str:
    try:
        target, originator = wire.decode_open(frame.payload)
    except ProtocolViolation as error:
        return f"broken: {error}"
    return f"to {printable(target)}" + (f" for {printable(originator)}" if originator else "")


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _payload(frame: Frame) -> str:
    return printable(bytes(frame.payload[: wire.MAX_REASON]).decode("utf-8", "replace"))


def _code(number: int) -> str:
    return Code.of(number).name

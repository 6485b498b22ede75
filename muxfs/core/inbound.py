"""The peer's ring as its reader sees it: which bytes to read, and which are valid.

Rule 1: what is not proven by epoch, position and checksum is not there yet.
Rule 2: the read position moves only over valid batches, one after the other.

Where a read is a round trip, it must not wait for the end of the one before. Two ways:

* Headers are followed: beside the reads of batches that are known to be there, the place of
  the next one is looked at, which tells its length. But for these pages each byte is read once.
* Where the file server would move much in the time of such a look, more is asked for on a
  guess: as much as came last time, and more as long as all that was asked for was there, but
  no more than is moved in that time: a wrong guess then costs no more than a right one saves.

Both are read in pieces, several under way at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

import attrs

from muxfs.core import wire
from muxfs.core.extreme import Extreme
from muxfs.core.wire import PAGE, BatchHeader, BatchProof

PIECE: Final = 1 << 20
"""Longest read while guessing, in bytes: what file servers move in one operation. With longer ones
fewer are under way (simulated, 10 ms and 100 MB/s: 80 MB/s with 2 MiB, 94 with this)."""

LONGEST_READ: Final = wire.DEFAULT_MAX_BATCH
"""The same while headers are followed: a batch, so that its parts are not to be joined."""

MOST_READS: Final = 8
"""Pieces under way at the most."""

OVERLAP: Final = 2 * PIECE
"""What is asked for beyond the round trip while all of it is there: one piece is on its way
while the next is asked for (20 ms, 100 MB/s, in simulation: 98 MB/s with it, 45 without)."""

LEAST_AHEAD: Final = 256 << 10
"""Less than this is not worth a read of its own beside others."""

WORTH_GUESSING: Final = LEAST_AHEAD + (16 << 10)
"""Bytes moved in the time of a round trip from which on to guess; while it is not known, headers
are followed. A look that is early by a moment is a round trip lost. Simulated with 5 ms and
100 MB/s, following gives 72 MB/s and guessing 91; with 0.2 ms and 400 MB/s, both give nearly all,
but a guess reads every byte twice."""

TIMES_PERIOD: Final = 10.0
"""Seconds for which the time of a read is remembered, at least."""

ROUND_TRIP_PERIOD: Final = 60.0
"""The same for the shortest: while guesses go well, there are but a few short reads."""

MISSES: Final = 1
"""Polls in a row that may find nothing until guessing ends: each has the file server send a
batch for nothing (NFS, with a guess of two batches: twice the bytes that were needed)."""


@attrs.frozen
class Batch:
    """A valid batch; `body` is a view into what was read, or into what was sealed there."""

    header: BatchHeader
    body: memoryview

    @property
    def held(self) -> int:
        """Bytes of memory that any view into the body keeps: of all that it was read with."""
        return memoryview(self.body.obj).nbytes


@attrs.define
class ReadTimes:
    """How long reads take: a round trip, and the time in which bytes are moved."""

    _round_trip: Extreme = attrs.field(factory=lambda: Extreme(ROUND_TRIP_PERIOD))
    _rate: Extreme = attrs.field(factory=lambda: Extreme(TIMES_PERIOD))
    _longest: Extreme = attrs.field(factory=lambda: Extreme(TIMES_PERIOD))

    def add(self, length: int, elapsed: float, now: float, *, waited: bool = False) -> None:
        """Count a read of `length` bytes; `waited`: maybe for news, until they came.

        Not where there was nothing to read: of a file that is missing the server was not asked.
        """
        if not length:
            return
        if not waited:
            self._longest.add(elapsed, now, greatest=True)
        if length <= wire.HEAD_LENGTH:
            self._round_trip.add(elapsed, now, greatest=False)
        elif length >= LEAST_AHEAD:
            moving = elapsed - (self._round_trip.best(greatest=False) or 0.0)
            # A round trip that was measured beside other reads is too long. Half of the time, not
            # an eighth, would count a link too slow where the round trip is most of it.
            self._rate.add(length / max(moving, elapsed / 8, 1e-6), now, greatest=True)

    @property
    def longest(self) -> float:
        """Seconds that the longest recent read took."""
        return self._longest.best(greatest=True) or 0.0

    @property
    def worth_guessing(self) -> int:
        """Bytes that are moved in the time of a round trip."""
        round_trip = self._round_trip.best(greatest=False)
        rate = self._rate.best(greatest=True)
        if round_trip is None or rate is None:
            return LEAST_AHEAD
        return min(MOST_READS * PIECE, max(PAGE, int(round_trip * rate) // PAGE * PAGE))


@attrs.define(eq=False)
class Piece:
    """A part of the ring that is being read, by its position."""

    position: int
    length: int
    looks: bool
    """Whether it is but a look whether a batch has come, beside the reads of others."""

    data: bytes | None = None

    @property
    def end(self) -> int:
        """Position after it."""
        return self.position + self.length


@attrs.define
class ReceiveRing:
    """Reads one epoch of the peer's ring."""

    epoch: int
    ring_offset: int
    capacity: int
    max_batch: int
    proof: BatchProof = attrs.field(default=wire.by_checksum, kw_only=True)
    position: int = 0
    speculate: bool = False
    torn: int = 0
    incomplete: bool = False
    """A batch was seen that is longer than what was read: worth reading again at once."""

    caught_up: bool = False
    """What was read last shows the place of the next batch, which is not there yet."""

    _wanted: int = PAGE
    _guess: int = PAGE
    _misses: int = 0
    _last: int = 0
    """Bytes of the ring that the newest batch takes."""

    _stopped_at: int = 0
    times: ReadTimes = attrs.field(factory=ReadTimes)
    _known: int = 0
    """Position up to which there are batches, as headers tell that are not proven yet."""

    _asked: int = 0
    """Position up to which reads are under way, or over."""

    _missed: bool = False
    """Whether a look beside other pieces was in vain, and none of them has come since."""

    _pieces: deque[Piece] = attrs.field(factory=deque)
    _let_go: int = 0
    """Reads of this poll that are under way, and do not count any more."""

    _kept: bytes | memoryview = b""
    """The first part of a batch whose rest is being read."""

    def marker(self, position: int) -> tuple[int, bytes]:
        """File offset and bytes that tell that the batch of that position has come."""
        offset = self.file_offset(position) + wire.MARKER_OFFSET
        return offset, wire.marker_of(self.epoch, position)

    def file_offset(self, position: int) -> int:
        """Where in the file a position stands."""
        return self.ring_offset + position % self.capacity

    # What to read

    @property
    def extent(self) -> tuple[int, int]:
        """Where in the file the next batch will stand, and how much to read: (offset, length)."""
        room = self.capacity - self.position % self.capacity
        return self.file_offset(self.position), min(self._wanted, room)

    def first_piece(self) -> Piece:
        """Begin to look for the next batch; what is under way does not count any more."""
        self._start_over()
        self._let_go = 0
        self.incomplete = False
        return self._begin(self.position, self._wanted)

    def next_piece(self, fresh: bool = True) -> Piece | None:
        """Return what is worth reading beside the pieces under way, or after them.

        `fresh`: also of what is not known to be there.
        """
        if self.incomplete:
            return self._rest_of_batch(fresh)
        if len(self._pieces) + self._let_go >= MOST_READS:
            return None
        if self._asked < self._known:
            return self._begin(self._asked, self._known - self._asked)
        if not fresh:
            return None
        return self._guess_ahead() if self.guesses else self._look_beside()

    def _rest_of_batch(self, fresh: bool) -> Piece | None:
        self.incomplete = False
        start = self.position + len(self._kept)
        end = self.position + self._wanted
        follows = self.speculate and not self.guesses and self._known - start >= LEAST_AHEAD
        if follows or not fresh:
            end = self._known  # the place of the next one is looked at beside it, or later
        # nothing is known yet of what follows a PAD
        return self._begin(start, end - start) if end > start else None

    def _guess_ahead(self) -> Piece | None:
        if self._pieces:
            ahead = self.position + self._wanted - self._asked
            return self._begin(self._asked, ahead) if ahead >= LEAST_AHEAD else None
        # What was asked for too early is on its way, but what has come by now is not in it.
        # Simulated with 20 and 50 ms, a stream gets 0.99 and 0.96 of what the ring lets
        # through, where the reader waited for all of it 0.80 and 0.77. But one read may take
        # seconds of a server in trouble, which is not to be asked all the time meanwhile.
        again = self._let_go and self._misses <= MOST_READS
        return self._begin(self.position, self._wanted) if again else None

    def _look_beside(self) -> Piece | None:
        look = self._pieces and self._asked == self._known and not self._missed
        return self._begin(self._asked, PAGE, looks=True) if look else None

    def is_awaited(self, piece: Piece) -> bool:
        """Whether nothing tells yet that the batch where a piece begins has come."""
        return piece.looks or piece.position == self.position == self._known

    @property
    def guesses(self) -> bool:
        """Whether more is asked for than is known to be there."""
        return self.speculate and self.times.worth_guessing >= WORTH_GUESSING

    def _begin(self, position: int, length: int, *, looks: bool = False) -> Piece:
        length = min(length, self.capacity - position % self.capacity)
        if self.speculate:
            length = min(length, PIECE if self.guesses else LONGEST_READ)
        piece = Piece(position, length, looks)
        self._pieces.append(piece)
        self._asked = piece.end
        return piece

    def _start_over(self) -> None:
        """Let go what was asked for."""
        if self._pieces:
            self._let_go += sum(piece.data is None for piece in self._pieces)
            self._pieces.clear()
        self._kept = b""
        self._known = self._asked = self.position
        self._missed = False

    # What was read

    def receive(self, piece: Piece, data: bytes) -> Iterator[Batch]:
        """Take what was read of a piece; yield the batches that are valid now, in order."""
        if piece not in self._pieces:
            self._let_go -= self._let_go > 0
        beside_others = piece.looks and len(self._pieces) > 1 and self._pieces[-1] is piece
        if beside_others and self._follow(piece, memoryview(data)):
            return
        self._missed = False
        piece.data = data
        while self._pieces and (found := self._pieces[0].data) is not None:
            whole = len(found) == self._pieces.popleft().length
            kept, self._kept = self._kept, b""
            yield from self._take(memoryview(b"".join((kept, found)) if kept else found), whole)
            if not whole:  # the end of a file that is too short: what follows is not next to it
                self._start_over()

    def _follow(self, look: Piece, view: memoryview) -> bool:
        """Follow the headers in a look beside other pieces; whether that is all it is good for.

        Not where it holds all of a batch: that is taken when its turn comes.
        """
        at = look.position
        while header := self._header(view[at - look.position :], at):
            after = at + self._stride(header, at)
            if at + header.length > look.end:
                self._known = after
                self._take_back(look)
                return True
            at = after
        if at == look.position:
            self._missed = True
            self._take_back(look)
            return True
        self._known, self._asked = at, max(at, self._asked)  # the end of the ring is not read
        return False

    def _take_back(self, look: Piece) -> None:
        self._pieces.pop()
        self._asked = look.position

    def _take(self, view: memoryview, whole: bool) -> Iterator[Batch]:
        """Yield the batches in a view from the read position on."""
        self._wanted = PAGE
        self.caught_up = False
        at = 0
        while at < len(view):
            header = self._header(view[at:], self.position)
            if header is None:
                self._stop()
                self.caught_up = len(view) - at >= wire.BATCH_HEADER
                return
            length = header.length
            batch = view[at : at + length]
            if len(batch) < length and (at or whole):
                self._go_on(batch, wire.align(length))
                return
            body = self.proof.check(header, batch) if len(batch) == length else None
            if body is None:
                self.torn += len(batch) == length
                self._stop()
                self._wanted = max(self._wanted, wire.align(length) + PAGE)
                return
            self._last = self._stride(header, self.position)
            self.position += self._last
            at += wire.align(length)
            yield Batch(header, body)
            if header.pad:
                self._grow(at)
                self._go_to_start()
                return
        self._grow(at)

    def _go_on(self, part: memoryview, stride: int) -> None:
        """Read the rest of a batch, or all of it where the part is so small."""
        self._grow(len(part))
        self._known = max(self._known, self.position + stride)
        self._wanted = max(self._wanted, stride + PAGE)
        self.incomplete = not self._pieces
        if self._pieces or len(part) > PAGE:
            self._kept = part

    def _go_to_start(self) -> None:
        """Go on where the ring begins: what was asked for before it is of no use."""
        while self._pieces and self._pieces[0].position < self.position:
            self._let_go += self._pieces.popleft().data is None
        self.incomplete = not self._pieces

    def _grow(self, found: int) -> None:
        """Guess more: all that was asked for was there."""
        self._misses = 0
        if self.speculate:
            most = self.times.worth_guessing + OVERLAP * self.guesses
            self._guess = min(most, MOST_READS * PIECE, self._guess + found)
            self._wanted = self._guess

    def _stop(self) -> None:
        """Guess as much as came since the last time that there was no more.

        Also for a poll or two that find nothing: a reader that is early by a moment would
        need two reads for each of the next batches, and never catch up (20 ms a read: half
        the speed).
        """
        self._start_over()
        found, self._stopped_at = self.position - self._stopped_at, self.position
        if not self.speculate:
            return
        if found:
            likely = min(found + PAGE, max(self._guess, PIECE), self.times.worth_guessing)
            # of a batch that needs a second read anyway only the header is looked for; of several
            # as many as fit (50 ms, 100 MB/s, in simulation: 47 MB/s, 31 with the header only)
            self._guess = likely if self._last <= likely else PAGE
            self._misses = 0
        else:
            self._misses += 1
        if self._misses <= MISSES:
            self._wanted = self._guess

    def _header(self, view: memoryview, position: int) -> BatchHeader | None:
        header = wire.decode_batch_header(view, self.epoch, position)
        if header is None or header.sealed != self.proof.sealed:
            return None
        room = self.capacity - position % self.capacity
        return header if header.length <= min(self.max_batch, room) else None

    def _stride(self, header: BatchHeader, position: int) -> int:
        if header.pad:
            return self.capacity - position % self.capacity
        return wire.align(header.length)

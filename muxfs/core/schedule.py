"""Who sends next: deficit round robin with new streams first.

As FQ-CoDel (RFC 8290, section 4.1): a stream that becomes active is served before
those that have been active for longer, for one quantum; then it queues up with
the others. So a keystroke or a new request overtakes a bulk stream without any
configuration, and no stream starves.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

from muxfs.core.stream import Stream

QUANTUM: Final = 128 << 10
"""Bytes of one turn while several streams are active. Each turn is a frame, and each frame costs
the far side a task switch, a copy and a write to a socket: with 16 KiB, 16 streams together
had a third of what one had alone."""

_IDLE: Final = 0
_NEW: Final = 1
_OLD: Final = 2


@attrs.define
class Scheduler:
    """Active streams in the order in which they are served."""

    _new: deque[Stream] = attrs.field(factory=deque)
    _old: deque[Stream] = attrs.field(factory=deque)

    def activate(self, stream: Stream) -> None:
        """Queue a stream that has something to send; again is no harm."""
        if stream.queue_place == _IDLE:
            stream.queue_place = _NEW
            stream.deficit = QUANTUM
            self._new.append(stream)

    def next(self) -> Stream | None:
        """Return the stream whose turn it is; those that have nothing to send leave."""
        while True:
            queue = self._new or self._old
            if not queue:
                return None
            stream = queue[0]
            if stream.send.sendable and stream.deficit > 0:
                return stream
            queue.popleft()
            if not stream.send.sendable and stream.queue_place == _OLD:
                stream.queue_place = _IDLE
                continue
            # spent its turn, or was new and is empty: to the end of the old ones, so that
            # a stream that comes and goes cannot overtake for ever
            if stream.deficit <= 0:
                stream.deficit += QUANTUM
            stream.queue_place = _OLD
            self._old.append(stream)

    def turn(self, stream: Stream) -> int:
        """Return how many bytes the stream may send now; a lone one is not interrupted."""
        alone = len(self._new) + len(self._old) == 1
        return 1 << 30 if alone else stream.deficit

    @staticmethod
    def overtakes(stream: Stream) -> bool:
        """Whether the stream, whose turn it is, goes before those that are active for longer."""
        return stream.queue_place == _NEW

    def spend(self, stream: Stream, length: int) -> None:
        """Count what the stream sent in its turn (a lone one does not run into debt)."""
        stream.deficit = max(stream.deficit - length, 1 - QUANTUM)

    def clear(self) -> None:
        """Forget all streams."""
        for stream in (*self._new, *self._old):
            stream.queue_place = _IDLE
        self._new.clear()
        self._old.clear()

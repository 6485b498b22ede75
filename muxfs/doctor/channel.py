"""How a pair of doctors talk: messages in turn, each overwriting the one before.

The leader asks and the follower answers, so that a message shows that the one before was
read. It stands on the two slots, which are written and read in the surest way, whatever the
strategies under test do. A thread beats meanwhile: who is busy is not taken for dead.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, Final

from muxfs.doctor.meeting import IDLE_BEAT, Meeting
from muxfs.doctor.patience import Patience
from muxfs.doctor.slots import read_document
from muxfs.storage.files import GONE

SILENCE: Final = 8.0
"""Seconds without a beat until the other doctor counts as vanished."""
_LONGEST_NAP: Final = 0.02

Body = dict[str, Any]


class Vanished(Exception):
    """The other doctor is not there any more; str() says why, as a sentence."""


class Channel:
    """Messages to and from the other doctor. One task at a time; raises OSError besides."""

    def __init__(self, meeting: Meeting, nonce: str, patience: Patience) -> None:
        self._meeting = meeting
        self._patience = patience
        self._lock = threading.Lock()
        self._document: Body = {"nonce": nonce, "echo": meeting.peer_nonce, "number": 0}
        self._beat = 1 << 32  # above all that was counted before they met
        self._received = 0
        self._ended = threading.Event()
        threading.Thread(target=self._keep_beating, daemon=True).start()

    def send(self, body: Body) -> None:
        """Put a message in place of the one before, which the other one has read."""
        self._put(body=body, number=self._document["number"] + 1)

    def receive(self, within: float) -> Body:
        """Wait for the next message. Raises Vanished, Halted."""
        start = fresh = time.monotonic()
        beat: object = None
        nap = 0.001
        while True:
            self._patience.check()
            before = time.monotonic()
            document = self._look()
            now = time.monotonic()
            if now - before > SILENCE / 10:  # the server stood still, for the other one as well
                start, fresh = start + now - before, fresh + now - before
            if document is not None and document.get("nonce") == self._meeting.peer_nonce:
                if "bye" in document:
                    raise Vanished(f"the other doctor ended: {document['bye']}")
                if document.get("number", 0) > self._received:
                    self._received = document["number"]
                    return dict(document["body"])
                if document.get("beat") != beat:
                    beat, fresh = document.get("beat"), now
            if now - fresh > SILENCE:
                raise Vanished(f"the other doctor gives no sign of life for {SILENCE:.0f} s")
            if now - start > within:
                raise Vanished(f"the other doctor does not answer within {within:.0f} s")
            time.sleep(nap)
            nap = min(_LONGEST_NAP, nap * 1.2)

    def _look(self) -> Body | None:
        """Read what the other one says. Raises Vanished, OSError."""
        try:
            return read_document(self._meeting.peer)
        except OSError as error:
            if error.errno in GONE:  # NFS: who has ended has removed its slot
                raise Vanished("the other doctor has ended, and removed its files") from error
            raise

    def close(self, reason: str | None = None) -> None:
        """Stop beating; with a reason, tell it to the other one."""
        self._ended.set()
        if reason is not None:
            with contextlib.suppress(OSError):
                self._put(bye=reason)
        self._meeting.peer.file.close()

    def _put(self, **changes: object) -> None:
        with self._lock:
            self._beat += 1
            self._document = {**self._document, **changes, "beat": self._beat}
            self._meeting.slot.put(self._document)

    def _keep_beating(self) -> None:
        while not self._ended.wait(IDLE_BEAT):
            with contextlib.suppress(OSError):
                self._put()

"""What one side has counted since its start."""

from __future__ import annotations

import attrs

from muxfs.core.conversation import Conversation


@attrs.define
class Totals:
    """What was counted so far; bytes of batches with all that is in them."""

    opened: int = 0
    torn: int = 0
    stale: int = 0
    rewritten: int = 0
    written: int = 0
    read: int = 0

    def with_those_of(self, conversation: Conversation | None) -> Totals:
        """Return these and those of a conversation."""
        if conversation is None:
            return self
        return Totals(
            self.opened + conversation.streams.opened,
            self.torn + conversation.inbound.torn,
            self.stale,
            self.rewritten + conversation.out.rewritten,
            self.written + conversation.out.position,
            self.read + conversation.inbound.position,
        )

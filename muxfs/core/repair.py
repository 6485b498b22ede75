"""When to try again after a write of the own mailbox failed."""

from __future__ import annotations

from typing import Final

import attrs

FIRST_BACKOFF: Final = 0.1
MOST_BACKOFF: Final = 5.0


@attrs.define
class Repair:
    """Backoff from the first failure until everything was written again, and well."""

    retry_at: float = 0.0
    """When the next write may be tried."""

    _backoff: float = FIRST_BACKOFF
    _since: float | None = None

    @property
    def under_way(self) -> bool:
        """Whether a write failed, and not everything was written again since then."""
        return self._since is not None

    def failed(self, now: float) -> None:
        """Note a failure; those of writes that were under way together count as one."""
        if self._since is None:
            self._since = now
        elif now < self.retry_at:
            return
        self.retry_at = now + self._backoff
        self._backoff = min(MOST_BACKOFF, 2 * self._backoff)

    def lasts(self, now: float) -> float:
        """Return for how long nothing could be written well."""
        return 0.0 if self._since is None else now - self._since

    def succeeded(self) -> None:
        """Note that all is well again."""
        self._since = None
        self._backoff = FIRST_BACKOFF

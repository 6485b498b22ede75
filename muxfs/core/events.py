"""What happens to a session as a whole."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from muxfs.core.stream import Ending
from muxfs.core.wire import Birth


@attrs.frozen
class Established:
    """The peer echoes us: streams can be opened."""

    peer: Birth


@attrs.frozen
class Lost:
    """The session with the peer is over; all its streams have ended. Another may follow."""

    ending: Ending


@attrs.frozen
class Silent:
    """The peer gave no sign for `seconds`; streams wait."""

    seconds: float


@attrs.frozen
class Resumed:
    """A silent peer gave a sign again."""


@attrs.frozen
class Born:
    """This side took a new generation."""

    generation: int


@attrs.frozen
class Strange:
    """Somebody lives at the other side with whom there can be no session; it is waited on."""

    reason: str


@attrs.frozen
class Failed:
    """This side closed itself for good."""

    ending: Ending


Event: TypeAlias = Established | Lost | Silent | Resumed | Born | Strange | Failed

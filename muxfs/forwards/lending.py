"""Listening for the far side (its -R), as far as this side's policy goes."""

from __future__ import annotations

import errno
import socket
from typing import Final

import attrs
import trio

from muxfs.core.wire import Code
from muxfs.forwards.admission import Admission, ExposedAddressError
from muxfs.forwards.carrier import Carrier
from muxfs.forwards.consent import Policy, Refusal
from muxfs.forwards.events import Lent, Returned
from muxfs.forwards.listener import ForwardListener
from muxfs.forwards.ports import OpenPort, open_port
from muxfs.forwards.remote import wait_end
from muxfs.forwards.routes import route_of_request
from muxfs.forwards.spec import Forward, Kind
from muxfs.forwards.targets import Listen, Service
from muxfs.stream import MuxStream

MAX_LISTENERS: Final = 64
"""Listeners that the far side may have here at once."""

_CODES: Final = {
    errno.EADDRINUSE: (Code.LIMIT, "something else listens there"),
    errno.EACCES: (Code.PROHIBITED, "that place is not for this user"),
    errno.EADDRNOTAVAIL: (Code.UNREACHABLE, "this host has no such address"),
    errno.ENOENT: (Code.UNREACHABLE, "there is no such directory"),
}


@attrs.define(eq=False)
class Lender:
    """All listeners of one session's far side."""

    carrier: Carrier
    policy: Policy
    admission: Admission
    connect_timeout: float
    _lent: int = attrs.field(default=0, init=False)

    async def lend(self, stream: MuxStream, asked: Listen) -> Refusal | None:
        """Listen for as long as the stream is open, which this closes; or return why not.

        Returns when the last connection has ended.
        """
        if refusal := self.policy.listen_refusal(asked.place):
            return refusal
        if self._lent >= MAX_LISTENERS:
            return Refusal(Code.LIMIT, f"{asked.place}: you have {MAX_LISTENERS} listeners here")
        self._lent += 1
        try:
            port = await self._open(asked)
        except BaseException:
            self._lent -= 1
            raise
        if isinstance(port, Refusal):
            self._lent -= 1
            return port
        await self._serve(stream, asked, port)
        return None

    async def _open(self, asked: Listen) -> OpenPort | Refusal:
        kind = Kind.DYNAMIC if asked.service is Service.SOCKS else Kind.LOCAL
        try:
            with trio.fail_after(self.connect_timeout):  # its name may have to be resolved
                return await open_port(Forward(asked.place, None, kind), self.admission)
        except trio.TooSlowError:
            return Refusal(Code.TIMEOUT, f"{asked.place}: resolving it takes too long")
        except socket.gaierror as error:
            return Refusal(Code.RESOLVE, f"{asked.place}: this name is unknown ({error.strerror})")
        except ExposedAddressError as error:
            return Refusal(Code.PROHIBITED, f"{asked.place}: {error}")
        except OSError as error:
            code, words = _CODES.get(error.errno or 0, (Code.INTERNAL, str(error.strerror)))
            name = errno.errorcode.get(error.errno or 0, "error")
            return Refusal(code, f"{name} {asked.place}: {words}")

    async def _serve(self, stream: MuxStream, asked: Listen, port: OpenPort) -> None:
        carrier = self.carrier
        route = route_of_request(asked)
        listener = ForwardListener(
            carrier, port, self.admission, connect_timeout=self.connect_timeout, route=route
        )
        async with trio.open_nursery() as nursery:
            try:
                with carrier.load.one_more(listener.descriptors):
                    nursery.start_soon(listener.run)
                    await stream.accept(port.bound)
                    carrier.report(Lent(port.bound))
                    await wait_end(stream)
            finally:
                self._lent -= 1
            carrier.report(Returned(listener.bound))
            await listener.stop()  # connections that it accepted go on

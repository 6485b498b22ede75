"""`muxfs stdio`: standard input and output joined to a connection of the other side.

Rule: no import of trio or attrs, and of nothing else that is not needed: ssh starts it for
each connection.
"""

from __future__ import annotations

import argparse
import os
import signal

from muxfs.cli.arguments import (
    KEY_VARIABLE,
    SESSION_HELP,
    add_session_options,
    duration,
    session_arguments,
)
from muxfs.cli.failures import (
    IO_ERROR,
    NO_PERMISSION,
    UNAVAILABLE,
    Failure,
    exit_code_of,
    leave,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from muxfs.cli.tunnel import Tunnel
    from muxfs.control.client import End
    from muxfs.control.copying import Copying

HELP = f"""\
usage: muxfs stdio [options] TUNNEL TARGET

Connect standard input and output to TARGET, as seen by the other side of the tunnel,
through the `muxfs listen` that runs on this host. If none runs here, one is started in
the background, and ends after a while without connections.

TUNNEL is a name (a directory in ~/.muxfs, or $MUXFS_HOME) or a path with a / in it.
TARGET is where the other side connects to: PORT, HOST:PORT or /SOCKET

options:
  --persist TIME          a listen in the background ends after this time without
                          connections (10m); 0: start none
  --side dial             through the `muxfs dial` that runs on this host
{SESSION_HELP.format(connect="wait so long for the other side to connect")}\
  -h, --help              this text
All but the first three are for a listen in the background, when one is started.

Ends with 0 after a clean end of the connection in both directions, and with a sentence
on stderr otherwise.

examples:
  ssh -o ProxyCommand='muxfs stdio job42 %h:%p' localhost
  ssh login muxfs stdio job42 localhost:8888
"""

_NOBODY_READS = 128 + signal.SIGPIPE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments and options."""
    parser.add_argument("tunnel", metavar="TUNNEL")
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument("--persist", type=duration, default=600.0, metavar="TIME")
    parser.add_argument("--side", choices=("listen", "dial"), default="listen")
    add_session_options(parser)


def run(args: argparse.Namespace) -> int:
    """Carry the connection. Raises Failure."""
    from muxfs.cli import asking, tunnel  # noqa: PLC0415  (start-up time)
    from muxfs.control import client, copying, protocol  # noqa: PLC0415

    copying.open_standard_descriptors()
    place = tunnel.resolve(args.tunnel)
    end = _join(args, place)
    asking.check_version(end)
    copies = copying.Copying(end)
    request = {"request": "connect", "target": args.target, "timeout": args.connect_timeout}
    try:
        end.send(request, [copies.theirs.fileno()])
        copies.theirs.close()
        end.wait_long()
        copies.start()
        answer = end.receive()
        if answer == {"event": "eof"}:
            copies.finish_output()
            answer = end.receive()
    except (client.Gone, protocol.Malformed):
        _check_copies(copies)
        raise asking.lost(end) from None
    _check_copies(copies)
    asking.check(answer)
    return 0


def _check_copies(copies: Copying) -> None:
    """Raise Failure if it was this side that failed."""
    if copies.failure is not None:
        what, error = copies.failure
        if isinstance(error, BrokenPipeError):
            leave(_NOBODY_READS)  # as the shell would tell of any filter
        raise Failure(f"cannot {what}: {error.strerror}", IO_ERROR)


def _join(args: argparse.Namespace, tunnel: Tunnel) -> End:
    """Connect to an end of this host, which is started if need be. Raises Failure."""
    from muxfs.cli import asking  # noqa: PLC0415  (start-up time)
    from muxfs.cli.tunnel import HOME_VARIABLE  # noqa: PLC0415
    from muxfs.control import background, client, place  # noqa: PLC0415

    real = asking.real_path(tunnel.path, args.side)

    def find() -> End | None:
        return next(client.find(real, args.side), None)

    if args.side != "listen" or not args.persist:
        found = find()
        if found is None:
            words = f"no muxfs {args.side} runs on this host for {tunnel.path}"
            raise Failure(words, UNAVAILABLE)
        return found
    key_file = args.key_file or os.environ.get(KEY_VARIABLE)
    if key_file:
        args.key_file = os.path.abspath(key_file)  # it runs in another directory
    name = tunnel.path
    if tunnel.home is not None:  # by its name, so that the directory of all tunnels is made, too
        os.environ[HOME_VARIABLE], name = os.path.split(tunnel.path)
    persist = f"{args.persist:g}s"
    options = ["listen", name, "--quiet", "--persist", persist, *session_arguments(args)]
    try:
        return background.find_or_start(real, find, options, args.connect_timeout)
    except background.NotStarted as error:
        raise Failure(f"muxfs listen in the background: {error}", error.exit_code) from error
    except place.Unsafe as error:
        raise Failure(str(error), NO_PERMISSION) from error
    except OSError as error:
        words = f"cannot start muxfs listen: {error.filename or ''} {error.strerror}"
        raise Failure(words, exit_code_of(error)) from error

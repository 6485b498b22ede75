"""What one end of a tunnel was asked for."""

from __future__ import annotations

import os
import resource
from typing import Literal

import attrs

from muxfs.cli import tunnel
from muxfs.cli.child import Child
from muxfs.cli.failures import Failure
from muxfs.cli.journal import Journal
from muxfs.cli.output import Output
from muxfs.cli.tunnel import Tunnel
from muxfs.config import SessionConfig
from muxfs.endpoint.endpoint import DEFAULT_SESSIONS, EndpointConfig
from muxfs.endpoint.slots import DirectorySlots
from muxfs.errors import MuxfsError
from muxfs.forwards.admission import OWN_USER, Admission
from muxfs.forwards.consent import Policy
from muxfs.forwards.spec import Forward
from muxfs.slurm.jobs import JobId, job_of


@attrs.frozen
class End:
    """One end of a tunnel, as it was asked for."""

    role: Literal["listen", "dial"]
    tunnel: Tunnel
    session: SessionConfig
    connect_timeout: float
    output: Output
    forwards: tuple[Forward, ...] = ()
    policy: Policy = attrs.field(factory=Policy)
    admission: Admission = OWN_USER
    insecure: bool = False
    persist: float = 0.0
    """Seconds without connections after which it ends; 0: it does not."""
    most_sessions: int = DEFAULT_SESSIONS
    job: JobId | None = None
    """The job that it waits for, and ends with."""
    child: Child | None = None
    """The command that it lives as long as."""
    tunnel_said: bool = True
    """Whether `tunnel` is what the user wants; else it is the job's own, as far as is known."""
    journal: Journal = attrs.field()

    @journal.default
    def _journal(self) -> Journal:
        return Journal(self.output)

    @property
    def own_job(self) -> int | None:
        """The job whose own tunnel it is, which others find by the job's number; else None."""
        name = os.path.basename(self.tunnel.path)
        number = job_of(name)
        is_own = number is not None and self.tunnel.path == tunnel.resolve(name).path
        return number if is_own else None

    def config(self) -> EndpointConfig:
        """Return what the endpoint needs of it."""
        return EndpointConfig(
            role=self.role,
            slots=DirectorySlots(
                self.tunnel.sessions, self.role, self._make_directory, self.session
            ),
            session=self.session,
            most_sessions=self.most_sessions,
            connect_timeout=self.connect_timeout,
            policy=self.policy,
            admission=self.admission,
            descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )

    def _make_directory(self, path: str) -> None:
        try:
            tunnel.prepare_directory(path, insecure=self.insecure)
        except Failure as failure:
            raise UnusableDirectory(failure) from failure


class UnusableDirectory(MuxfsError):
    """A session's directory is missing, or not safe."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.exit_code = failure.exit_code

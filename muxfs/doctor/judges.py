"""From what was measured on one host to findings: pure functions."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import Final

from muxfs.doctor.findings import Finding, Verdict
from muxfs.doctor.locks import Answer
from muxfs.doctor.space import Space
from muxfs.doctor.statistics import Summary
from muxfs.storage.access import DirectRead
from muxfs.storage.choices import Kind, Source
from muxfs.storage.filesystem import Filesystem
from muxfs.units import amount, span

SLOW_WRITE: Final = 0.1
"""Seconds: an echo through a tunnel takes two writes at least."""
STALL: Final = 1.0
"""Seconds of one write that are worth a warning."""
SLOW_FILLING: Final = 1 << 20
"""Bytes a second."""

_OK, _WARNING, _PROBLEM = Verdict.OK, Verdict.WARNING, Verdict.PROBLEM


def judge_directory(mode: int, owner: int, *, made: bool) -> Finding:
    """Judge who may write to the tunnel's directory; `made`: it did not exist before."""
    permissions = stat.S_IMODE(mode)
    whose = "yours" if owner == os.geteuid() else f"of uid {owner}"
    found = f"mode {permissions:04o}, {whose}" + (", made for this look" if made else "")
    facts = {"mode": f"{permissions:04o}", "owner": owner, "made": made}
    if owner != os.geteuid() or permissions & 0o022:
        advice = "others can put files there: muxfs uses it only with --insecure-dir"
        return Finding("directory", _WARNING, found, advice, facts)
    return Finding("directory", _OK, found, facts=facts)


def judge_filesystem(filesystem: Filesystem, chosen: str) -> Finding:
    """Judge the kind of filesystem; `chosen` is what muxfs would use there by itself."""
    source = filesystem.choice.source
    words = f"{filesystem.describe()}; muxfs uses {chosen} ({source.value})"
    facts = {
        "type": filesystem.type,
        "source": filesystem.source,
        "mount_point": filesystem.mount_point,
        "options": list(filesystem.options),
        "access": chosen,
        "known_by": source.value,
    }
    if filesystem.kind is not Kind.NETWORK:
        advice = "of this host alone: both ends must run here, or the other host mount it from here"
        return Finding("filesystem", _WARNING, words, advice, facts)
    if source is Source.SAFEST:
        advice = "nothing is known of it: prove it with --peer"
        return Finding("filesystem", _WARNING, words, advice, facts)
    return Finding("filesystem", _OK, words, facts=facts)


_REMARKS: Final[Mapping[str, tuple[Verdict, str]]] = {
    "ro": (_PROBLEM, "mounted read-only: choose a directory that this host may write"),
    "soft": (
        _WARNING,
        "soft: calls fail instead of waiting when the server is slow; muxfs tries again, "
        "but hard is what other programs need",
    ),
    "softerr": (_WARNING, "softerr: as soft; hard is what programs need"),
    "noac": (_OK, "noac: costs the server much, and does not make reads current; not needed"),
    "actimeo=0": (_OK, "actimeo=0: costs the server much, and muxfs does not need it"),
    "nolock": (_OK, "nolock: locks are seen by this host only; muxfs uses none"),
    "cache=loose": (
        _WARNING,
        "cache=loose: other hosts' writes may stay unseen; prove it (--peer)",
    ),
    "kernel_cache": (
        _WARNING,
        "kernel_cache: other hosts' writes may stay unseen; prove it (--peer)",
    ),
}


def judge_options(filesystem: Filesystem) -> Finding:
    """Judge the mount options."""
    remarks = [_REMARKS[option] for option in filesystem.options if option in _REMARKS]
    if any(option.startswith("local_lock=") for option in filesystem.options):
        name = next(o for o in filesystem.options if o.startswith("local_lock="))
        if name != "local_lock=none":
            remarks.append((_OK, f"{name}: locks are seen by this host only; muxfs uses none"))
    if not remarks:
        return Finding("mount", _OK, "nothing in its options that matters")
    for verdict in (_PROBLEM, _WARNING):
        bad = [words for level, words in remarks if level is verdict]
        if bad:
            found, _, advice = bad[0].partition(": ")
            return Finding("mount", verdict, found, "; ".join([advice, *bad[1:]]))
    return Finding("mount", _OK, "; ".join(words for _, words in remarks))


def judge_space(space: Space, ring: int) -> Finding:
    """Judge free space and quotas; a tunnel has two mailboxes of `ring` bytes."""
    need = 2 * ring
    room = [(f"left of the {q.whose} quota", q.left) for q in space.quotas]
    if space.free is not None:
        room.insert(0, ("free", space.free))
    words = [f"{amount(count)} {what}" for what, count in room]
    found = ", ".join(words if space.free is not None else ["free space not told", *words])
    if not space.told:
        found += ", quota not told"
    elif not space.quotas:
        found += ", no quota"
    facts = {
        "free": space.free,
        "inodes_free": space.inodes,
        "quota_told": space.told,
        "quotas": [{"whose": q.whose, "used": q.used, "limit": q.limit} for q in space.quotas],
        "needed": need,
    }
    if space.inodes == 0:
        return Finding("space", _PROBLEM, "no inode is free", "delete files", facts)
    least = min((count for _, count in room), default=2 * need)
    wanted = f"the two mailbox files need {amount(need)} (see --ring)"
    if least < need:
        return Finding("space", _PROBLEM, found, f"{wanted}: make room", facts)
    if least < 2 * need:
        return Finding("space", _WARNING, found, f"not much: {wanted}", facts)
    return Finding("space", _OK, found, facts=facts)


_ADVICE: Final = {
    errno.EROFS: "the filesystem is read-only here: choose another directory",
    errno.ENOSPC: "the disk is full: make room, or give a smaller --ring",
    errno.EDQUOT: "the quota is used up: make room, or give a smaller --ring",
    errno.EFBIG: "files of that size are not allowed: give a smaller --ring",
    errno.EACCES: "this user may not write there: choose a directory of your own",
    errno.EPERM: "files made there do not belong to their maker (root_squash, or a mapping of "
    "users): run muxfs as the user who owns the directory",
    errno.ESTALE: "the server does not know the directory any more: mount it again",
}


def judge_refusal(error: OSError) -> Finding:
    """Say that files cannot be made there."""
    words = error.strerror or str(error)
    path = f" ({error.filename})" if error.filename else ""
    advice = _ADVICE.get(error.errno or 0, "choose another directory")
    name = errno.errorcode.get(error.errno or 0, "")
    return Finding("files", _PROBLEM, f"cannot make files: {words}{path}", advice, {"error": name})


def judge_filling(size: int, seconds: float) -> Finding:
    """Judge how a whole mailbox file was written."""
    rate = size / max(seconds, 1e-6)
    found = f"a mailbox file of {amount(size)} written in {span(seconds)}"
    facts = {"size": size, "seconds": round(seconds, 4), "bytes_per_second": round(rate)}
    if rate < SLOW_FILLING:
        advice = "slow: the first start of each side takes that long; see --ring"
        return Finding("files", _WARNING, found, advice, facts)
    return Finding("files", _OK, found, facts=facts)


Timing = Summary | OSError
"""How long an operation took; or why it cannot be done there."""


def judge_writing(timings: Mapping[str, Timing], chosen: str) -> Finding:
    """Judge the time of writes of a page, by strategy."""
    found, facts = _in_words(timings), _in_facts(timings)
    own = timings.get(chosen)
    if isinstance(own, OSError):
        advice = f"{chosen} fails ({own.strerror}): prove the others with --peer"
        return Finding("write", _PROBLEM, found, advice, facts)
    if own is not None and own.median > SLOW_WRITE:
        advice = "slow: an echo through the tunnel takes two writes at least"
        return Finding("write", _WARNING, found, advice, facts)
    if own is not None and own.most > STALL:
        advice = f"once it took {span(own.most)}: connections wait as long; is the server busy?"
        return Finding("write", _WARNING, found, advice, facts)
    return Finding("write", _OK, found, facts=facts)


def judge_reading(timings: Mapping[str, Timing], chosen: str, *, direct: bool) -> Finding:
    """Judge the time of reads of a page, by strategy; `direct`: O_DIRECT was not refused."""
    found, facts = _in_words(timings), {"o_direct": direct, **_in_facts(timings)}
    own = timings.get(chosen)
    if isinstance(own, OSError):
        advice = f"{chosen} fails ({own.strerror}): prove the others with --peer"
        return Finding("read", _PROBLEM, found, advice, facts)
    if not direct:
        found += "; O_DIRECT is refused"
        if chosen == DirectRead.name:
            found += f", so {chosen} does as dontneed does"
    return Finding("read", _OK, found, facts=facts)


def judge_locks(answer: Answer, second: Answer | None) -> Finding:
    """Judge what a lock call said, and that of a second process while the lock was held."""
    facts = {"first": answer.value, "second": None if second is None else second.value}
    if answer is Answer.GRANTED and second is Answer.REFUSED:
        return Finding("locks", _OK, "work between processes of this host", facts=facts)
    advice = "muxfs uses none; other programs may"
    if answer is Answer.GRANTED and second is Answer.GRANTED:
        found = "two processes get the same lock"
    elif Answer.SILENT in {answer, second}:
        found = "a lock call does not return"
    else:
        found = "there are none"
    return Finding("locks", _WARNING, found, advice, facts)


def _in_words(timings: Mapping[str, Timing]) -> str:
    return ", ".join(
        f"{name}: {timing.strerror}"
        if isinstance(timing, OSError)
        else f"{name} {span(timing.median)} (p99 {span(timing.p99)})"
        for name, timing in timings.items()
    )


def _in_facts(timings: Mapping[str, Timing]) -> dict[str, object]:
    return {
        name: {"error": os.strerror(timing.errno or 0)}
        if isinstance(timing, OSError)
        else timing.facts()
        for name, timing in timings.items()
    }

"""The synchronous core of the in-memory storage: old, torn, lost, failing."""

from __future__ import annotations

import errno
import itertools
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.storage.memory_file import PAGE, MemoryFile, random_tear, random_versions

from .conftest import os_error


def oldest(_page: int, versions: int) -> int:
    return versions - 1


def newest(_page: int, _versions: int) -> int:
    return 0


def whole(file: MemoryFile, choose=None) -> bytes:
    return file.read(0, file.size, choose)


writes = st.lists(
    st.tuples(st.integers(0, 3 * PAGE), st.binary(max_size=2 * PAGE)), min_size=1, max_size=6
)


@given(writes, st.integers(1, 4))
def test_newest_is_what_was_written(history, versions: int) -> None:
    file, expected = MemoryFile(versions), bytearray()
    for offset, data in history:
        file.write(offset, [data[:7], data[7:]])
        if data:
            expected.extend(bytes(max(0, offset + len(data) - len(expected))))
            expected[offset : offset + len(data)] = data

    assert whole(file) == whole(file, newest) == expected
    assert file.size == len(expected)


@given(writes, st.integers(1, 4), st.integers(0, 3 * PAGE), st.integers(0, PAGE), st.data())
def test_each_page_of_a_read_is_one_of_its_last_versions(
    history, versions: int, offset: int, length: int, data: st.DataObject
) -> None:
    file = MemoryFile(versions)
    file.truncate(6 * PAGE)
    states = [whole(file)]  # what the file held after each write
    touched = {page: [0] for page in range(6)}  # when each page got its last versions
    for start, content in history:
        file.write(start, [content])
        states.append(whole(file))
        for page in {at // PAGE for at in range(start, start + len(content))}:
            touched[page].append(len(states) - 1)
    ages: dict[int, int] = {}

    def choose(page: int, count: int) -> int:
        assert count == min(len(touched[page]), versions)
        ages[page] = data.draw(st.integers(0, count - 1))
        return ages[page]

    seen = file.read(offset, length, choose)

    expected = bytearray(states[-1])
    for page, age in ages.items():
        state = states[touched[page][-1 - age]]
        expected[page * PAGE : (page + 1) * PAGE] = state[page * PAGE : (page + 1) * PAGE]
    assert seen == expected[offset : offset + length]


def test_reads_may_go_backwards() -> None:
    file = MemoryFile(versions=3)
    file.truncate(PAGE)
    for letter in b"abc":
        file.write(0, [bytes([letter]) * PAGE])

    seen = [file.read(0, 1, lambda _page, _count, age=age: age) for age in (0, 2, 1, 0)]

    assert seen == [b"c", b"a", b"b", b"c"]


def test_one_version_is_always_coherent() -> None:
    file = MemoryFile()
    file.write(0, [b"old"])
    file.write(0, [b"new"])

    assert file.read(0, 3, oldest) == b"new"


@given(st.binary(min_size=1, max_size=100), st.data())
def test_torn_write(content: bytes, data: st.DataObject) -> None:
    file = MemoryFile(versions=2)
    file.write(0, [b"." * 200])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), min_size=2, max_size=2)))
    file.write_torn(10, [content[:3], content[3:]], [(cuts[0], cuts[1])])

    expected = bytearray(b"." * 200)
    expected[10 + cuts[0] : 10 + cuts[1]] = content[cuts[0] : cuts[1]]
    assert whole(file) == expected


def test_lost_writes_are_the_last_ones() -> None:
    file = MemoryFile(versions=4)
    for text in (b"one.", b"two.", b"three"):
        file.write(0, [text])
    file.lose(2)
    assert whole(file) == b"one.\0"

    file.write(0, [b"four"])
    file.lose(1)
    assert whole(file) == b"one.\0"
    assert file.read(0, 4, lambda _page, _count: 1) == b"four"  # it may be in caches still


def test_loses_no_more_than_it_remembers() -> None:
    file = MemoryFile(versions=2)
    file.write(0, [b"one"])
    file.write(0, [b"two"])
    file.lose(99)

    assert whole(file) == b"one"


@pytest.mark.parametrize("operation", ["read", "write"])
def test_one_error(operation) -> None:
    file = MemoryFile()
    file.write(0, [b"before"])
    file.fail(operation, errno.EIO)
    calls = {"read": lambda: file.read(0, 6), "write": lambda: file.write(0, [b"after!"])}
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        calls[operation]()

    assert caught.value.errno == errno.EIO
    assert whole(file) == b"before"
    calls[operation]()


def test_some_errors_and_lasting_errors() -> None:
    file = MemoryFile()
    file.fail("write", errno.EDQUOT, times=2)
    for _ in range(2):
        with os_error(errno.EDQUOT):
            file.write(0, [b"x"])
    file.write(0, [b"x"])

    file.fail("read", errno.ESTALE, times=None)
    for _ in range(5):
        with os_error(errno.ESTALE):
            file.read(0, 1)
    file.heal()
    assert file.read(0, 1) == b"x"


def test_late_error_takes_earlier_writes_with_it() -> None:
    file = MemoryFile(versions=3)
    for text in (b"one", b"two", b"six"):
        file.write(0, [text])
    file.fail("write", errno.ENOSPC, lost=2)
    with os_error(errno.ENOSPC):
        file.write(0, [b"ten"])

    assert whole(file) == b"one"
    file.write(0, [b"ten"])
    assert whole(file) == b"ten"


def test_truncate_forgets_and_growing_does_not() -> None:
    file = MemoryFile(versions=3)
    file.write(0, [b"a" * PAGE])
    file.write(0, [b"b" * PAGE])
    file.truncate(2 * PAGE)
    assert file.read(0, 1, oldest) != b"b"
    assert whole(file) == b"b" * PAGE + bytes(PAGE)

    file.truncate(1)
    file.lose(5)
    assert whole(file, oldest) == b"b"
    file.truncate(3)
    assert whole(file) == b"b\0\0"


@given(st.randoms(use_true_random=False), st.integers(0, 5000), st.integers(1, 9))
def test_random_tear_stays_within(rng: random.Random, length: int, pieces: int) -> None:
    spans = list(random_tear(rng, pieces)(length))

    assert all(0 <= start < stop <= length for start, stop in spans)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@given(st.randoms(use_true_random=False), st.integers(1, 9))
def test_random_versions_stays_within(rng: random.Random, versions: int) -> None:
    assert 0 <= random_versions(rng, 1.0)(0, versions) < versions
    assert random_versions(rng, 0.0)(0, versions) == 0

"""Documents that prove themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxfs.doctor.slots import SLOT_SIZE, decode, encode

documents = st.dictionaries(
    st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=20)), max_size=4
)


@given(documents, st.binary(max_size=50))
def test_what_follows_does_not_matter(document: dict[str, object], rest: bytes) -> None:
    assert decode(encode(document) + rest) == document


@given(documents, documents, st.data())
def test_a_torn_view_is_none_of_the_two(
    old: dict[str, object], new: dict[str, object], data: st.DataObject
) -> None:
    before, after = encode(old), encode(new)
    length = max(len(before), len(after))
    before, after = before.ljust(length, b"\0"), after.ljust(length, b"\0")
    cuts = sorted(data.draw(st.tuples(st.integers(0, length), st.integers(0, length))))
    torn = before[: cuts[0]] + after[cuts[0] : cuts[1]] + before[cuts[1] :]
    assert decode(torn) in (old, new, None)


@given(st.binary(max_size=100))
def test_anything(data: bytes) -> None:
    assert decode(data) is None
    assert decode(b"muxfsDOC" + data) is None


def test_a_document_that_is_too_large() -> None:
    encode({"text": "x" * (SLOT_SIZE - 100)})
    with pytest.raises(ValueError, match="does not fit"):
        encode({"text": "x" * SLOT_SIZE})

"""Which form of a page or file is liked best. The tables are RFC 9110 sections 12.4.2, 12.5.1 and 12.5.3,
and RFC 9530 section 4 with the dictionaries of RFC 9651."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fileserver.negotiation import CODINGS, accepted_codings, prefers_json, wants_sha_256


@pytest.mark.parametrize(
    "accept",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json;q=0.001",
        b"application/json;q=1.000",
        b"application/json;charset=utf-8",
        b"application/json;charset=utf-8;q=0.5, text/html;q=0.4",
        b" application/json ; q=0.5 ,text/html;q=0.5",
        b"\tapplication/json\t;\tQ=0.5,text/html;q=0.5",
        b"text/html, application/json",
        b"text/plain, application/json",
        b"text/html;q=0.9, application/json, text/plain;q=0.9",
        b"text/html;q=0, application/json;q=0.1",
        b"image/png, application/json;q=0.1",
        b"*/*, application/json;q=0.1",
        b",, application/json,,",
        # 12.4.2: what is no weight is no reason to like it less
        b"application/json;q=2, text/html",
        b"application/json;q=1.5, text/html",
        b"application/json;q=1.001, text/html",
        b"application/json;q=-1, text/html",
        b"application/json;q=, text/html",
        b"application/json;q=0.1234, text/html",
        b"application/json;q=.5, text/html",
    ],
)
def test_json_is_preferred_when_it_is_named_and_nothing_of_ours_is_liked_better(accept: bytes) -> None:
    assert prefers_json(accept)


@pytest.mark.parametrize(
    "accept",
    [
        b"",
        b"*/*",
        b"application/*",
        b"text/html",
        b"application/json;q=0",
        b"application/json;q=0.",
        b"application/json;q=0.0",
        b"application/json;q=0.000",
        b"application/json;q=0.5, text/html",
        b"application/json;q=0.5, text/plain;q=0.6",
        b"application/json;q=0.999, text/plain;q=1.",
        b"text/html;level=1, application/json;q=0.9",
        b"application/jsonl",
        b"application/json-patch+json",
        b"xapplication/json",
        b"application / json",
        b'text/html;x="application/json"',
        b";application/json",
    ],
)
def test_json_is_not_preferred_otherwise(accept: bytes) -> None:
    assert not prefers_json(accept)


@pytest.mark.parametrize(
    ("accept_encoding", "codings"),
    [
        (b"", []),
        (b"gzip", ["gzip"]),
        (b"GZip", ["gzip"]),
        (b"br", ["br"]),
        (b"zstd", ["zstd"]),
        # What is liked as much comes in our order, the smallest result first.
        (b"gzip, zstd, br", ["br", "zstd", "gzip"]),
        (b"gzip, deflate, br, zstd", ["br", "zstd", "gzip"]),
        (b"gzip,br", ["br", "gzip"]),
        (b"gzip;q=0.5, zstd;q=0.5, br;q=0.5", ["br", "zstd", "gzip"]),
        # 12.4.2: weights decide first, and 0 refuses.
        (b"br;q=0.1, zstd;q=0.2, gzip;q=0.3", ["gzip", "zstd", "br"]),
        (b"br;q=0.5, gzip, zstd;q=0.75", ["gzip", "zstd", "br"]),
        (b"br;q=0.998, gzip;q=0.999", ["gzip", "br"]),
        (b"br;q=0, gzip", ["gzip"]),
        (b"br;q=0.000, gzip;q=0.001", ["gzip"]),
        (b"gzip;q=0", []),
        (b"br ; q=0 ,\tgzip\t;\tq=1.000", ["gzip"]),
        (b"br;Q=0, gzip", ["gzip"]),
        (b"gzip;x=1;q=0", []),
        (b"br;q=nonsense, gzip;q=0.9", ["br", "gzip"]),
        (b"br;q=1.1, gzip;q=0.9", ["br", "gzip"]),
        # 12.5.3: * is every coding that is not named.
        (b"*", ["br", "zstd", "gzip"]),
        (b"*;q=0", []),
        (b"*;q=0.5", ["br", "zstd", "gzip"]),
        (b"gzip, *;q=0.5", ["gzip", "br", "zstd"]),
        (b"gzip;q=0, *", ["br", "zstd"]),
        (b"gzip, *;q=0", ["gzip"]),
        (b"br;q=0.2, *;q=0.5", ["zstd", "gzip", "br"]),
        # The file as it is goes unless it is refused, and is liked least unless it is named.
        (b"identity", []),
        (b"identity, gzip", ["gzip"]),
        (b"identity, gzip;q=0.999", []),
        (b"identity;q=0.5, gzip;q=0.5, br;q=0.4, zstd;q=0.6", ["zstd", "gzip"]),
        (b"identity;q=0, gzip;q=0.1", ["gzip"]),
        (b"identity;q=0.5, *;q=0.6", ["br", "zstd", "gzip"]),
        (b"identity;q=0.5, *;q=0.4", []),
        (b"identity;q=0", []),
        # 8.4.1.3: an old name of gzip.
        (b"x-gzip", ["gzip"]),
        (b"X-GZIP;q=0.5, br;q=0.4", ["gzip", "br"]),
        (b"x-gzip;q=0, *", ["br", "zstd"]),
        # What we have not, and what is none.
        (b"deflate, compress", []),
        (b"brotli, zst, gz", []),
        (b"gzip2, xgzip", []),
        (b",, ,gzip,", ["gzip"]),
        (b";q=1, gzip", ["gzip"]),
        (b"gzip br", []),
        (b"gzip;br", ["gzip"]),
        (b'=,;\x00\xff"', []),
    ],
)
def test_codings_come_in_the_order_they_are_liked(accept_encoding: bytes, codings: list[str]) -> None:
    assert accepted_codings(accept_encoding) == codings


@pytest.mark.parametrize(
    "want_repr_digest",
    [
        *(b"sha-256=%d" % weight for weight in range(1, 11)),
        # 9651, 4.2.2: members in any order, with spaces and tabs around the commas
        b"sha-256=1, sha-512=10",
        b"sha-512=10,sha-256=1",
        b"sha-512=3,\tsha-256=10 \t, unixsum=0",
        b"sha-512=0, sha-256=1",
        b" sha-256=5 ",
        # ... of any name, ours in whole only, and the last of a name counts
        b"*a_b-c.d*=1, sha-256=1, md5=0",
        b"sha-256=0, sha-256=1",
        b"sha-256=0, sha-512=1, sha-256=10",
        b"sha-256-x=0, sha-256=1, x-sha-256=0",
        # 3.1.2: parameters mean nothing here
        b"sha-256=5;x",
        b"sha-256=5;x=1;y=?0",
        b"sha-256=5; x=1;  *y=0",
        b"sha-512=5;sha-256=0, sha-256=5;sha-256=0",
        b'sha-256=5;x="y"',
    ],
)
def test_sha_256_is_wanted_when_it_has_a_weight(want_repr_digest: bytes) -> None:
    assert wants_sha_256(want_repr_digest)


@pytest.mark.parametrize(
    "want_repr_digest",
    [
        b"",
        b"sha-256=0",
        b"sha-256=0;x=1",
        b"sha-512=10",
        b"sha-512=10, sha-256=0",
        b"sha-256=10, sha-256=0",
        b"sha-256=10, sha-512=5, sha-256=0",
        b"sha-512=5;sha-256=10",
        b"sha-256-x=1",
        b"x-sha-256=1",
        b"sha-25=1, sha-2560=1, sha_256=1, sha.256=1",
        # 9530, 4: whole numbers up to 10 and nothing else
        b"sha-256",
        b"sha-256=?1",
        b"sha-256=11",
        b"sha-256=100",
        b"sha-256=-1",
        b"sha-256=1.0",
        b"sha-256=0.5",
        b'sha-256="1"',
        b"sha-256=one",
        b"sha-256=:MQ==:",
        b"sha-256=(1)",
        b"sha-256;q=1",
        # 9651, 4.2: what is malformed anywhere is no dictionary at all
        b"sha-256=",
        b"sha-256=1,",
        b",sha-256=1",
        b"sha-256=1,,sha-512=1",
        b"sha-256=1, ",
        b"sha-256=1 sha-512=1",
        b"sha-256=1; sha-512=1, =",
        b"sha-256=1, sha-512=",
        b"sha-256=1, sha-512=1x",
        b"sha-256=1, SHA-512=1",
        b"sha-256=1, Sha-512=1",
        b"sha-256=1, 512=1",
        b"sha-256=1, -x=1",
        b"sha-256=1, sha 512=1",
        b"SHA-256=1",
        b"Sha-256=1",
        b"sha-256 =1",
        b"sha-256= 1",
        b"sha-256=1 ;x",
        b"sha-256=+1",
        b"sha-256==1",
        b"sha-256:1",
        b"sha-256=1\n",
        b"sha-256=\xd9\xa1",
        b"sha-256=1, \xff=1",
        b"*",
        b"1",
    ],
)
def test_sha_256_is_not_wanted_otherwise(want_repr_digest: bytes) -> None:
    assert not wants_sha_256(want_repr_digest)


members = st.tuples(st.sampled_from([b"sha-256", b"sha-512", b"md5", b"a*"]), st.integers(0, 10))
spaces = st.sampled_from([b"", b" ", b"\t", b" \t "])
parameters = st.sampled_from([b"", b";a", b"; b=1", b";c=?0;d=x"])


@settings(derandomize=True, database=None, max_examples=200, deadline=None)
@given(st.lists(st.tuples(members, parameters, spaces, spaces), max_size=5))
def test_the_last_weight_of_sha_256_counts(
    dictionary: list[tuple[tuple[bytes, int], bytes, bytes, bytes]],
) -> None:
    value = b",".join(
        before + b"%b=%d" % member + parameter + after for member, parameter, before, after in dictionary
    )
    weight = dict(member for member, _, _, _ in dictionary).get(b"sha-256", 0)
    assert wants_sha_256(value) == (weight > 0)


PIECES = [b"gzip", b"x-gzip", b"br", b"identity", b"*", b"application/json", b"text/html", b"sha-256="]
values = st.lists(st.sampled_from([*PIECES, b";", b"q=", b"0", b"1", b".", b"5", b",", b" "])).map(b"".join)


@settings(derandomize=True, database=None, max_examples=200, deadline=None)
@given(st.binary() | values)
def test_no_bytes_are_too_odd_to_choose_by(value: bytes) -> None:
    codings = accepted_codings(value)
    assert set(codings) <= set(CODINGS)
    assert len(set(codings)) == len(codings)
    assert b"application/json" in value.lower() or not prefers_json(value)
    assert b"sha-256=" in value or not wants_sha_256(value)


weights = st.integers(0, 1000)


@settings(derandomize=True, database=None, max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*CODINGS, "identity"]), weights))
def test_a_coding_is_never_liked_less_than_what_comes_after_it(liked: dict[str, int]) -> None:
    value = ", ".join(f"{coding};q={weight / 1000:.3f}" for coding, weight in liked.items())
    codings = accepted_codings(value.encode())
    floor = max(1, liked.get("identity", 0))
    assert codings == sorted(codings, key=lambda coding: -liked[coding])
    assert set(codings) == {coding for coding, weight in liked.items() if weight >= floor} - {"identity"}

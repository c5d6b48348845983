"""What conditions and ranges mean: RFC 9110 sections 13 (conditions), 14 (ranges) and 5.6.7 (dates) as tables."""

import calendar
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fileserver.conditional import FIELDS, Verdict, evaluate
from fileserver.dates import parse_date
from fileserver.representation import Representation
from fileserver.root import Identity

SIZE = 10
CHANGED_S = 784111777
SAME = b"Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = b"Sun, 06 Nov 1994 08:49:36 GMT"
AFTER = b"Sun, 06 Nov 1994 08:49:38 GMT"
SAME_AS_RFC_850 = b"Sunday, 06-Nov-94 08:49:37 GMT"
SAME_AS_ASCTIME = b"Sun Nov  6 08:49:37 1994"
NO_DATE = b"yesterday"

ENDLESS = b"9" * 5000
"""More digits than int() takes, and fewer than a head may have."""


def version(size: int = SIZE, mtime_ns: int = CHANGED_S * 10**9 + 999_999_999) -> Representation:
    """A file changed in the last moment of a second, of which HTTP knows only the second."""
    return Representation("a", Identity(1, 2, size, mtime_ns, 0))


TAG = version().etag.encode()
UNDATED = version(mtime_ns=-1)
UNDATED_TAG = UNDATED.etag.encode()

Fields = dict[bytes, bytes]


def fields(**values: bytes) -> Fields:
    """`if_match=...` for If-Match and so on."""
    return {name.replace("_", "-").encode(): value for name, value in values.items()}


# Conditions.

WHOLE = Verdict(200, 0, SIZE)
PART = Verdict(206, 2, 4)
CURRENT = Verdict(304, 0, 0)
FAILED = Verdict(412, 0, 0)
BEYOND = Verdict(416, 0, 0)


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        ({}, WHOLE),
        # 13.1.1 If-Match compares strongly.
        (fields(if_match=b"*"), WHOLE),
        (fields(if_match=TAG), WHOLE),
        (fields(if_match=b'"other"'), FAILED),
        (fields(if_match=b"W/" + TAG), FAILED),
        (fields(if_match=b'"other", ' + TAG), WHOLE),
        (fields(if_match=b'"other",' + TAG), WHOLE),
        (fields(if_match=TAG + b' , "other"'), WHOLE),
        (fields(if_match=b'W/"other", ' + TAG), WHOLE),
        (fields(if_match=b'"other", W/' + TAG), FAILED),
        (fields(if_match=b", ,\t," + TAG + b","), WHOLE),  # 5.6.1.2: empty members
        (fields(if_match=b'"a,b", ' + TAG), WHOLE),
        (fields(if_match=b'"\xff\x80!",' + TAG), WHOLE),
        (fields(if_match=b'"open, ' + TAG), WHOLE),  # no tag has a space, so the next one is found
        (fields(if_match=b'"", ' + TAG), WHOLE),
        (fields(if_match=b'"*"'), FAILED),
        (fields(if_match=b""), FAILED),
        (fields(if_match=TAG.strip(b'"')), FAILED),
        (fields(if_match=TAG.upper()), FAILED),
        (fields(if_match=TAG[:-2] + b'"'), FAILED),
        # 13.1.4 If-Unmodified-Since: "has not been modified since" includes the second itself.
        (fields(if_unmodified_since=SAME), WHOLE),
        (fields(if_unmodified_since=SAME_AS_RFC_850), WHOLE),
        (fields(if_unmodified_since=SAME_AS_ASCTIME), WHOLE),
        (fields(if_unmodified_since=AFTER), WHOLE),
        (fields(if_unmodified_since=BEFORE), FAILED),
        (fields(if_unmodified_since=NO_DATE), WHOLE),
        (fields(if_unmodified_since=BEFORE + b", " + BEFORE), WHOLE),
        # 13.1.2 If-None-Match compares weakly.
        (fields(if_none_match=b"*"), CURRENT),
        (fields(if_none_match=TAG), CURRENT),
        (fields(if_none_match=b"W/" + TAG), CURRENT),
        (fields(if_none_match=b'"other"'), WHOLE),
        (fields(if_none_match=b'W/"other"'), WHOLE),
        (fields(if_none_match=b'"other", ' + TAG), CURRENT),
        (fields(if_none_match=TAG + b',"other"'), CURRENT),
        (fields(if_none_match=b'"a,b", W/"other",W/' + TAG), CURRENT),
        (fields(if_none_match=b'"*"'), WHOLE),
        (fields(if_none_match=b""), WHOLE),
        (fields(if_none_match=TAG.strip(b'"')), WHOLE),
        # 13.1.3 If-Modified-Since.
        (fields(if_modified_since=SAME), CURRENT),
        (fields(if_modified_since=SAME_AS_RFC_850), CURRENT),
        (fields(if_modified_since=SAME_AS_ASCTIME), CURRENT),
        (fields(if_modified_since=AFTER), CURRENT),
        (fields(if_modified_since=BEFORE), WHOLE),
        (fields(if_modified_since=NO_DATE), WHOLE),
        (fields(if_modified_since=b""), WHOLE),
        (fields(if_modified_since=SAME + b", " + SAME), WHOLE),
        # 13.2.2 step 1 replaces step 2: a tag is better than a date.
        (fields(if_match=TAG, if_unmodified_since=BEFORE), WHOLE),
        (fields(if_match=b'"other"', if_unmodified_since=AFTER), FAILED),
        # 13.2.2 step 3 replaces step 4.
        (fields(if_none_match=b'"other"', if_modified_since=SAME), WHOLE),
        (fields(if_none_match=TAG, if_modified_since=BEFORE), CURRENT),
        # 13.2.2 steps 1 and 2 come before steps 3 and 4.
        (fields(if_match=b'"other"', if_none_match=TAG), FAILED),
        (fields(if_match=TAG, if_none_match=TAG), CURRENT),
        (fields(if_match=TAG, if_none_match=b'"other"'), WHOLE),
        (fields(if_match=b'"other"', if_modified_since=SAME), FAILED),
        (fields(if_match=TAG, if_modified_since=SAME), CURRENT),
        (fields(if_unmodified_since=BEFORE, if_none_match=TAG), FAILED),
        (fields(if_unmodified_since=SAME, if_none_match=TAG), CURRENT),
        (fields(if_unmodified_since=BEFORE, if_modified_since=SAME), FAILED),
        (fields(if_unmodified_since=SAME, if_modified_since=SAME), CURRENT),
        # 13.2.2 step 5 comes last: only what would be 200 has a range.
        (fields(if_match=b'"other"', range=b"bytes=2-3"), FAILED),
        (fields(if_match=TAG, range=b"bytes=2-3"), PART),
        (fields(if_unmodified_since=BEFORE, range=b"bytes=2-3"), FAILED),
        (fields(if_none_match=TAG, range=b"bytes=2-3"), CURRENT),
        (fields(if_none_match=TAG, range=b"bytes=10-"), CURRENT),
        (fields(if_none_match=b'"other"', range=b"bytes=2-3"), PART),
        (fields(if_modified_since=SAME, range=b"bytes=2-3"), CURRENT),
        (fields(if_modified_since=BEFORE, range=b"bytes=2-3"), PART),
        (fields(if_none_match=TAG, if_range=b'"other"', range=b"bytes=2-3"), CURRENT),
        # 13.1.5 If-Range compares strongly, and dates exactly.
        (fields(if_range=TAG, range=b"bytes=2-3"), PART),
        (fields(if_range=b"W/" + TAG, range=b"bytes=2-3"), WHOLE),
        (fields(if_range=b'"other"', range=b"bytes=2-3"), WHOLE),
        (fields(if_range=b'"other", ' + TAG, range=b"bytes=2-3"), WHOLE),  # it is one tag, no list
        (fields(if_range=b"*", range=b"bytes=2-3"), WHOLE),
        (fields(if_range=TAG.strip(b'"'), range=b"bytes=2-3"), WHOLE),
        (fields(if_range=b"", range=b"bytes=2-3"), WHOLE),
        (fields(if_range=SAME, range=b"bytes=2-3"), PART),
        (fields(if_range=SAME_AS_ASCTIME, range=b"bytes=2-3"), PART),
        (fields(if_range=BEFORE, range=b"bytes=2-3"), WHOLE),
        (fields(if_range=AFTER, range=b"bytes=2-3"), WHOLE),
        (fields(if_range=NO_DATE, range=b"bytes=2-3"), WHOLE),
        (fields(if_range=b'"other"', range=b"bytes=10-"), WHOLE),
        (fields(if_range=TAG, range=b"bytes=10-"), BEYOND),
        (fields(if_range=TAG, range=b"nonsense"), WHOLE),
        (fields(if_range=TAG), WHOLE),
        (fields(if_range=b'"other"'), WHOLE),
    ],
)
def test_conditions_hold_or_fail_in_the_order_of_the_rfc(asked: Fields, verdict: Verdict) -> None:
    assert evaluate(asked, version()) == verdict


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        (fields(if_unmodified_since=BEFORE), WHOLE),
        (fields(if_modified_since=AFTER), WHOLE),
        (fields(if_range=SAME, range=b"bytes=2-3"), WHOLE),
        (fields(if_range=NO_DATE, range=b"bytes=2-3"), WHOLE),
        (fields(if_range=UNDATED_TAG, range=b"bytes=2-3"), PART),
        (fields(if_none_match=UNDATED_TAG), CURRENT),
    ],
)
def test_a_file_without_a_date_meets_no_condition_about_dates(asked: Fields, verdict: Verdict) -> None:
    assert evaluate(asked, UNDATED) == verdict


def test_fields_that_are_no_conditions_change_nothing() -> None:
    assert evaluate(fields(accept=b"*/*", host=b"a"), version()) == WHOLE


# Ranges.


@pytest.mark.parametrize(
    ("value", "start", "end"),
    [
        # first-last
        (b"bytes=0-0", 0, 1),
        (b"bytes=0-9", 0, 10),
        (b"bytes=3-5", 3, 6),
        (b"bytes=9-9", 9, 10),
        # 14.1.2: a last position over the end is the end
        (b"bytes=9-10", 9, 10),
        (b"bytes=0-10", 0, 10),
        (b"bytes=2-99999", 2, 10),
        (b"bytes=2-" + ENDLESS, 2, 10),
        (b"bytes=2-" + b"1" + b"0" * 19, 2, 10),
        (b"bytes=2-" + b"1" + b"0" * 20, 2, 10),
        # first-
        (b"bytes=0-", 0, 10),
        (b"bytes=3-", 3, 10),
        (b"bytes=9-", 9, 10),
        # -suffix, of which there may be less than was asked for
        (b"bytes=-1", 9, 10),
        (b"bytes=-9", 1, 10),
        (b"bytes=-10", 0, 10),
        (b"bytes=-11", 0, 10),
        (b"bytes=-" + ENDLESS, 0, 10),
        # leading zeros mean nothing
        (b"bytes=00-00", 0, 1),
        (b"bytes=0003-0005", 3, 6),
        (b"bytes=-0001", 9, 10),
        (b"bytes=" + b"0" * 5000 + b"3-5", 3, 6),
        # 14.1: units are case-insensitive; 5.6.1.2: a list may have empty members and white space
        (b"BYTES=3-5", 3, 6),
        (b"Bytes=3-5", 3, 6),
        (b"bytes=3-5,", 3, 6),
        (b"bytes=,3-5", 3, 6),
        (b"bytes=, \t,3-5 ,", 3, 6),
        (b"bytes= 3-5\t", 3, 6),
    ],
)
def test_a_range_is_these_bytes(value: bytes, start: int, end: int) -> None:
    assert evaluate(fields(range=value), version()) == Verdict(206, start, end)


@pytest.mark.parametrize(
    "value",
    [
        b"bytes=10-",
        b"bytes=10-10",
        b"bytes=10-99",
        b"bytes=11-12",
        b"bytes=-0",
        b"bytes=-000",
        b"bytes=" + ENDLESS + b"-",
        b"bytes=" + ENDLESS + b"-" + ENDLESS,
        b"bytes=1" + b"0" * 19 + b"-",
        b"bytes=1" + b"0" * 20 + b"-",
        b"bytes=1" + b"0" * 99 + b"-",
    ],
)
def test_a_range_beyond_the_end_is_416(value: bytes) -> None:
    assert evaluate(fields(range=value), version()) == BEYOND


@pytest.mark.parametrize(
    "value",
    [
        # 14.1.1: last before first is invalid; and what is no range is ignored (14.2)
        b"bytes=5-4",
        b"bytes=5-0",
        b"bytes=99-98",
        b"bytes=" + ENDLESS + b"-0",
        b"",
        b"bytes",
        b"bytes=",
        b"bytes=,",
        b"bytes=-",
        b"bytes=3",
        b"bytes=a-b",
        b"bytes=3-b",
        b"bytes=--3",
        b"bytes=3--5",
        b"bytes=3-5-",
        b"bytes=3-5x",
        b"bytes=x3-5",
        b"bytes=+3-5",
        b"bytes=3 -5",
        b"bytes=3- 5",
        b"bytes=3-5 6",
        b"bytes=3.0-5",
        b"bytes=0x3-5",
        b"bytes=1_0-",
        b"bytes=\xd9\xa3-\xd9\xa5",
        b"bytes==3-5",
        b"bytes=3-5=",
        b"bytes=3-5;x",
        b"bytes=3-5\n",
        b"3-5",
        b"=3-5",
        b"bytes:3-5",
        b"bytes 3-5",
        # other units (14.1)
        b"items=3-5",
        b"byte=3-5",
        b"bytes =3-5",
        b" bytes=3-5",
        b"none=3-5",
        # several ranges: the whole is always allowed (14.2)
        b"bytes=0-0,2-3",
        b"bytes=0-0, 0-0",
        b"bytes=0-,-1",
        b"bytes=10-,11-",
        b"bytes=3-5,x",
        b"bytes=3-5, bytes=6-7",
    ],
)
def test_what_is_not_one_range_of_bytes_gets_the_whole(value: bytes) -> None:
    assert evaluate(fields(range=value), version()) == WHOLE


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (b"bytes=0-", Verdict(416, 0, 0)),
        (b"bytes=0-0", Verdict(416, 0, 0)),
        (b"bytes=-0", Verdict(416, 0, 0)),
        (b"bytes=-1", Verdict(200, 0, 0)),  # 14.1.2 calls it satisfiable, and Content-Range cannot say it
        (b"bytes=1-0", Verdict(200, 0, 0)),
        (b"bytes=0-0,1-1", Verdict(200, 0, 0)),
    ],
)
def test_an_empty_file_has_no_part(value: bytes, verdict: Verdict) -> None:
    assert evaluate(fields(range=value), version(0)) == verdict


def test_the_longest_file_there_can_be_has_parts() -> None:
    size = 2**63 - 1
    last = b"%d" % (size - 1)
    assert evaluate(fields(range=b"bytes=" + last + b"-"), version(size)) == Verdict(206, size - 1, size)
    assert evaluate(fields(range=b"bytes=0-" + last), version(size)) == Verdict(206, 0, size)
    assert evaluate(fields(range=b"bytes=-" + last), version(size)) == Verdict(206, 1, size)
    assert evaluate(fields(range=b"bytes=%d-" % size), version(size)) == BEYOND


rules = settings(derandomize=True, database=None, max_examples=200, deadline=None)

numbers = st.from_regex(rb"[0-9]{0,25}", fullmatch=True)
ranges = (
    st.tuples(numbers, numbers).map(lambda ends: b"bytes=%b-%b" % ends)
    | st.lists(st.sampled_from([b"bytes", b"=", b"-", b",", b" ", b"0", b"7", b"99", b"x"])).map(b"".join)
    | st.binary()
)


@rules
@given(ranges, st.integers(0, 30) | st.integers(0, 2**63 - 1))
def test_every_range_is_answered_with_the_whole_a_part_or_nothing(value: bytes, size: int) -> None:
    status, start, end = verdict = evaluate(fields(range=value), version(size))
    assert 0 <= start <= end <= size
    assert status in (200, 206, 416)
    if status == 200:
        assert verdict == (200, 0, size)
    elif status == 206:
        assert start < end
    else:
        assert verdict == (416, 0, 0)


@rules
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 20))
def test_a_range_is_a_slice(first: int, last: int, size: int) -> None:
    places = list(range(size))
    for value, expected in (
        (b"%d-%d" % (first, max(first, last)), places[first : max(first, last) + 1]),
        (b"%d-" % first, places[first:]),
        (b"-%d" % (last + 1), places[-last - 1 :]),
    ):
        status, start, end = evaluate(fields(range=b"bytes=" + value), version(size))
        assert places[start:end] == expected
        assert status == (206 if expected else 200 if value.startswith(b"-") else 416)


@rules
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), ranges | st.sampled_from([TAG, SAME, AFTER, b"*"])))
def test_no_fields_are_too_odd_for_a_verdict(asked: Fields) -> None:
    status, start, end = evaluate(asked, version())
    assert status in (200, 206, 304, 412, 416)
    assert (start < end) == (status in (200, 206))


# Dates.


def at(year: int) -> float:
    """A moment in the middle of a year."""
    return calendar.timegm((year, 7, 1, 12, 0, 0))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (SAME, CHANGED_S),
        (SAME_AS_RFC_850, CHANGED_S),
        (SAME_AS_ASCTIME, CHANGED_S),
        (b"Wed Nov 16 08:49:37 1994", CHANGED_S + 10 * 86400),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (b"Wed, 31 Dec 1969 23:59:59 GMT", -1),
        (b"Tue, 19 Jan 2038 03:14:08 GMT", 2**31),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", 253402300799),
        (b"Tue, 29 Feb 2000 00:00:00 GMT", 951782400),
        (b"Tue Feb 29 00:00:00 2000", 951782400),
        # The leap second is the first one of the next day.
        (b"Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
        (b"Sat Dec 31 23:59:60 2016", 1483228800),
    ],
)
def test_a_date_in_each_format_is_a_moment(value: bytes, seconds: int) -> None:
    assert parse_date(value, lambda: at(1994)) == seconds


@pytest.mark.parametrize(
    ("now", "digits", "year"),
    [
        (2026, b"26", 2026),
        (2026, b"27", 2027),
        (2026, b"00", 2000),
        (2026, b"75", 2075),
        (2026, b"76", 2076),
        (2026, b"77", 1977),
        (2026, b"99", 1999),
        (1994, b"94", 1994),
        (1999, b"50", 1950),
        (2000, b"50", 2050),
        (2000, b"51", 1951),
        (2049, b"99", 2099),
        (2048, b"99", 1999),
    ],
)
def test_a_year_of_two_digits_is_at_most_50_years_ahead(now: int, digits: bytes, year: int) -> None:
    value = b"Friday, 01-Jul-" + digits + b" 12:00:00 GMT"
    assert parse_date(value, lambda: at(now)) == at(year)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"784111777",
        b"1994-11-06T08:49:37Z",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 08:49:37 gmt",
        b"Sun, 06 Nov 1994 08:49:37 +0000",
        b"Sun, 06 Nov 1994 08:49:37 GMT ",
        b" Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT\n",
        b"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun,  06 Nov 1994 08:49:37 GMT",
        b"Sun 06 Nov 1994 08:49:37 GMT",
        b"sun, 06 Nov 1994 08:49:37 GMT",
        b"Son, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun,  6 Nov 1994 08:49:37 GMT",
        b"Sun, 06 nov 1994 08:49:37 GMT",
        b"Sun, 06 11 1994 08:49:37 GMT",
        b"Sun, 06 November 1994 08:49:37 GMT",
        b"Sun, 06 Nov 94 08:49:37 GMT",
        b"Sun, 06 Nov 19940 08:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"Sun, 06 Nov -994 08:49:37 GMT",
        b"Sun, 06-Nov-1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 8:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49 GMT",
        b"Sun, 06 Nov 1994 24:00:00 GMT",
        b"Sun, 06 Nov 1994 08:60:00 GMT",
        b"Sun, 06 Nov 1994 08:49:61 GMT",
        b"Sun, 06 Nov 1994 08.49.37 GMT",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, 31 Nov 1994 08:49:37 GMT",
        b"Tue, 29 Feb 1994 00:00:00 GMT",
        b"Thu, 29 Feb 1900 00:00:00 GMT",
        b"Sun, \xd9\xa0\xd9\xa6 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-1994 08:49:37 GMT",
        b"Sunday, 06 Nov 94 08:49:37 GMT",
        b"Sunday 06-Nov-94 08:49:37 GMT",
        b"Sun, 06-Nov-94 08:49:37 GMT",
        b"Tueday, 06-Nov-94 08:49:37 GMT",
        b"Sunday, 6-Nov-94 08:49:37 GMT",
        b"Sunday, 31-Nov-94 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37",
        b"Sun Nov 6 08:49:37 1994",
        b"Sun Nov  06 08:49:37 1994",
        b"Sun Nov  6 08:49:37 94",
        b"Sun Nov  6 08:49:37 1994 GMT",
        b"Sun, Nov  6 08:49:37 1994",
        b"Sunday Nov  6 08:49:37 1994",
        b"Sun Nov  0 08:49:37 1994",
        b"Sun Nov  6 25:49:37 1994",
    ],
)
def test_what_is_in_none_of_the_formats_is_no_date(value: bytes) -> None:
    assert parse_date(value, lambda: at(1994)) is None


DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def formats(seconds: int) -> tuple[bytes, bytes, bytes]:
    """IMF-fixdate, the form of RFC 850, and asctime's."""
    when = EPOCH + timedelta(seconds=seconds)
    day, month = DAYS[when.weekday()], MONTHS[when.month - 1]
    return (
        f"{day[:3]}, {when.day:02} {month} {when.year:04} {when:%H:%M:%S} GMT".encode(),
        f"{day}, {when.day:02}-{month}-{when.year % 100:02} {when:%H:%M:%S} GMT".encode(),
        f"{day[:3]} {month} {when.day:2} {when:%H:%M:%S} {when.year:04}".encode(),
    )


def test_the_formats_are_those_of_the_rfc() -> None:
    assert formats(CHANGED_S) == (SAME, SAME_AS_RFC_850, SAME_AS_ASCTIME)


@rules
@given(st.integers(int(at(1)), 253402300799))
def test_every_moment_is_read_as_it_was_written(seconds: int) -> None:
    fixdate, rfc_850, asctime = formats(seconds)
    assert parse_date(fixdate) == seconds
    assert parse_date(asctime) == seconds
    assert parse_date(rfc_850, lambda: seconds) == seconds


@rules
@given(st.integers(0, int(at(2400))), st.integers(0, 49 * 365 * 86400))
def test_the_past_49_years_are_known_by_two_digits(now_s: int, age_s: int) -> None:
    assert parse_date(formats(now_s - age_s)[1], lambda: now_s) == now_s - age_s


@rules
@given(
    st.tuples(*[st.integers(0, 99)] * 4, st.sampled_from([0, 1, 1900, 1970, 1996, 2000, 2026, 9999])),
    st.sampled_from(MONTHS),
)
def test_any_digits_are_the_moment_they_say_or_none(digits: tuple[int, ...], month: str) -> None:
    day, hour, minute, second, year = digits
    value = f"Sun, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT".encode()
    try:
        start = datetime(year, MONTHS.index(month) + 1, day, hour, minute, tzinfo=UTC)
    except ValueError:
        assert parse_date(value) is None
    else:
        seconds = int((start - EPOCH).total_seconds()) + second
        assert parse_date(value) == (seconds if second <= 60 else None)


@rules
@given(st.binary() | st.from_regex(rb"[A-Z][a-z]{2}(, |[a-z]*day)[-0-9A-Za-z: ]{10,30}", fullmatch=True))
def test_no_bytes_are_too_odd_to_be_no_date(value: bytes) -> None:
    assert isinstance(parse_date(value), int | None)

"""HTTP dates in the three formats of RFC 9110 section 5.6.7. Pure but for the present century."""

import re
import time
from collections.abc import Callable
from datetime import date
from functools import lru_cache

_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_EPOCH = date(1970, 1, 1).toordinal()
_DAY = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY = rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTH = rb"(?P<month>" + b"|".join(_MONTHS) + rb")"
_CLOCK = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES = (
    re.compile(_DAY + rb", (?P<day>\d\d) " + _MONTH + rb" (?P<year>\d{4}) " + _CLOCK + rb" GMT"),
    re.compile(_LONG_DAY + rb", (?P<day>\d\d)-" + _MONTH + rb"-(?P<year>\d\d) " + _CLOCK + rb" GMT"),
    re.compile(_DAY + rb" " + _MONTH + rb" (?P<day>\d\d| \d) " + _CLOCK + rb" (?P<year>\d{4})"),
)


@lru_cache(1024)
def http_date(second: int) -> str:
    """A Unix time as IMF-fixdate; empty when it has no year of four digits.

    By `strftime`, whose names are English as long as nobody calls `setlocale`; `email.utils` knows it too, and
    takes 10 ms to import.
    """
    try:
        moment = time.gmtime(second)
    except (OverflowError, ValueError, OSError):
        return ""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", moment) if second >= 0 and moment.tm_year <= 9999 else ""


def parse_date(value: bytes, clock: Callable[[], float] = time.time) -> int | None:
    """An HTTP-date as Unix seconds; None when it is not one.

    A year of two digits that seems more than 50 years ahead of `clock` is the past one with these digits.
    """
    match = next(filter(None, (form.fullmatch(value) for form in _DATES)), None)
    if match is None:
        return None
    day, year, hour, minute, second = (int(match[part]) for part in ("day", "year", "hour", "minute", "second"))
    month = _MONTHS.index(match["month"]) + 1
    if len(match["year"]) == 2:
        this_year = time.gmtime(clock()).tm_year
        year += this_year - this_year % 100
        year -= 100 if year > this_year + 50 else 0
    try:
        days = date(year, month, day).toordinal() - _EPOCH
    except ValueError:
        return None
    if hour > 23 or minute > 59 or second > 60:
        return None
    return days * 86_400 + hour * 3600 + minute * 60 + second

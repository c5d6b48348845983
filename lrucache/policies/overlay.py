"""A mapping over another that it only reads: what a policy's trial changes in the place of the policy's own."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

Value = TypeVar("Value")


class Overlay(OrderedDict[str, Value]):
    """Begins as `base`, which must not change as long as this is used. Making one costs nothing, however long that
    is; only what is changed takes room here.

    Who looks again and again for the first name finds it in amortised O(1). Values that are changed in place are
    given to `own`, which copies one when it is first asked for. Only what policies use of an ordered dictionary
    works; the rest is refused.
    """

    def __init__(self, base: Mapping[str, Value], own: Callable[[Value], Value] | None = None) -> None:
        super().__init__()  # nothing is ever in there
        self._base = base
        self._own = own
        self._gone: set[str] = set()
        self._changed: dict[str, Value] = {}
        self._late: OrderedDict[str, Value] = OrderedDict()
        self._rest = iter(base)
        self._first = next(self._rest, None)

    def __contains__(self, name: object) -> bool:
        return name in self._late or self._is_below(name)

    def __getitem__(self, name: str) -> Value:
        if name in self._late:
            return self._late[name]
        if not self._is_below(name):
            raise KeyError(name)
        if name in self._changed:
            return self._changed[name]
        if self._own is None:
            return self._base[name]
        value = self._changed[name] = self._own(self._base[name])
        return value

    def __setitem__(self, name: str, value: Value) -> None:
        (self._changed if self._is_below(name) else self._late)[name] = value

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def __len__(self) -> int:
        return len(self._base) - len(self._gone) + len(self._late)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __iter__(self) -> Iterator[str]:
        while self._first in self._gone:
            self._first = next(self._rest, None)
        first = self._first
        if first is not None:
            yield first
            yield from (name for name in self._base if name != first and name not in self._gone)
        yield from self._late

    def get(self, name: str, default: Value | None = None) -> Value | None:  # type: ignore[override]
        return self[name] if name in self else default  # noqa: SIM401 (that would be this)

    def pop(self, name: str, *default: Value) -> Value:  # type: ignore[override]
        if default and name not in self:
            return default[0]
        value = self[name]
        if self._late.pop(name, None) is None or self._is_below(name):
            self._gone.add(name)
        return value

    def popitem(self, last: bool = True) -> tuple[str, Value]:
        if last:
            raise NotImplementedError
        name = next(iter(self))
        return name, self.pop(name)

    def move_to_end(self, name: str, last: bool = True) -> None:
        if not last:
            raise NotImplementedError
        self._late[name] = self.pop(name)

    def _is_below(self, name: object) -> bool:
        return name in self._base and name not in self._gone

    def _refused(self, *_: object, **__: object) -> None:
        raise NotImplementedError

    items = values = keys = update = clear = copy = setdefault = __reversed__ = _refused  # type: ignore[assignment]

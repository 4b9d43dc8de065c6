"""The customers of a played platform: who there is, and what was said last.

Promises    The same seed gives the same people. Ids are made up and look like the platform's.
Limits      `CUSTOMERS_MAX` of them.
"""

import random
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from adapters.simulators.phrases import TONGUES, Tongue
from engine.errors import InvalidInput, Unavailable

Json = dict[str, Any]

CUSTOMERS_MAX: Final = 100_000
_REMEMBERED: Final = 8


class Said:
    """An item on its way, and what the ledger records of it: the id that a reader who follows the adapter's
    rule finds, the kind, and the message that an edit or a deletion is about."""

    def __init__(self, item: Json, fact_id: str, type_: str, original_id: str | None = None) -> None:
        self.item = item
        self.fact_id = fact_id
        self.type = type_
        self.original_id = original_id


class Customer:
    """`said` and `heard` are the newest message ids of either side; `heard_at` is when the business last
    heard from this customer, in ms."""

    def __init__(self, key: str, name: str, tongue: Tongue) -> None:
        self.key = key
        self.name = name
        self.tongue = tongue
        self.said: deque[str] = deque(maxlen=_REMEMBERED)
        self.heard: deque[str] = deque(maxlen=_REMEMBERED)
        self.heard_at = 0


class Cast:
    """All customers of one platform. `key_pattern` is what an id must match as a whole, `new_key` makes one;
    `kinds` says how often which kind of item is said, unasked."""

    def __init__(
        self,
        rng: random.Random,
        *,
        kinds: Mapping[str, float],
        key_pattern: str,
        new_key: Callable[[random.Random], str],
    ) -> None:
        self.rng = rng
        self.kinds = kinds
        self._pattern = re.compile(key_pattern)
        self._new_key = new_key
        self._by_key: dict[str, Customer] = {}

    @property
    def everybody(self) -> list[Customer]:
        return list(self._by_key.values())

    def find(self, key: str) -> Customer | None:
        return self._by_key.get(key)

    def adopt(self, key: str, name: str | None = None) -> Customer:
        """The customer with this id, made when there is none. Raises InvalidInput for what is no id here."""
        known = self._by_key.get(key)
        if known is not None:
            return known
        if not self._pattern.fullmatch(key):
            raise InvalidInput(f"a customer's id matches {self._pattern.pattern}")
        if len(self._by_key) >= CUSTOMERS_MAX:
            raise Unavailable(f"There are {CUSTOMERS_MAX} customers already.", code="cast_full")
        tongue = self.rng.choice(TONGUES)
        made = f"{self.rng.choice(tongue.first_names)} {self.rng.choice(tongue.last_names)}"
        customer = self._by_key[key] = Customer(key, name or made, tongue)
        return customer

    def ensure(self, count: int) -> list[Customer]:
        """So many customers."""
        while len(self._by_key) < count:
            self.adopt(self._new_key(self.rng))
        return self.everybody[:count]

    def draw_kind(self, customer: Customer) -> str:
        """A kind for what this customer says next. Those that need a past become texts without one."""
        return self.rng.choices(tuple(self.kinds), tuple(self.kinds.values()))[0]

    def sentence(self, customer: Customer) -> str:
        return self.rng.choice(customer.tongue.sentences if customer.said else customer.tongue.openings)

"""The customers of a played platform: who there is, and what was said last.

Promises    The same seed gives the same people. Ids are made up and look like the platform's.
Limits      `CUSTOMERS_MAX` of them.
"""

import random
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

from adapters.simulators.phrases import TONGUES, Tongue
from engine.errors import InvalidInput, Unavailable

Json = dict[str, Any]

CUSTOMERS_MAX: Final = 100_000
REMEMBERED: Final = 8


class Said:
    """An item on its way, and what the ledger records of it: the id that a reader who follows the adapter's
    rule finds, the kind, the message that an edit or a deletion is about, and whose it is where that is not
    the customer's present id."""

    def __init__(
        self,
        item: Json,
        fact_id: str,
        type_: str,
        original_id: str | None = None,
        key: str | None = None,
    ) -> None:
        self.item = item
        self.fact_id = fact_id
        self.type = type_
        self.original_id = original_id
        self.key = key


class Customer:
    """`said` and `heard` are the newest message ids of either side; `heard_at` is when the business last
    heard from this customer, in ms."""

    def __init__(self, key: str, name: str, tongue: Tongue) -> None:
        self.key = key
        self.name = name
        self.tongue = tongue
        self.said: deque[str] = deque(maxlen=REMEMBERED)
        self.heard: deque[str] = deque(maxlen=REMEMBERED)
        self.heard_at = 0


C = TypeVar("C", bound=Customer)


class Cast(ABC, Generic[C]):
    """All customers of one platform. `key_pattern` is what an id must match as a whole; `kinds` says how
    often which kind of item is said, unasked."""

    def __init__(self, rng: random.Random, *, kinds: Mapping[str, float], key_pattern: str) -> None:
        self.rng = rng
        self.kinds = kinds
        self.everybody: list[C] = []
        self._pattern = re.compile(key_pattern)
        self._by_key: dict[str, C] = {}

    @abstractmethod
    def made(self, key: str, name: str, tongue: Tongue) -> C:
        """The customer of this id."""

    @abstractmethod
    def invent(self) -> C:
        """A customer whom nobody knows yet."""

    def keys(self, customer: C) -> tuple[str, ...]:
        """The ids that a customer is found by."""
        return (customer.key,)

    def find(self, key: str) -> C | None:
        return self._by_key.get(key)

    def adopt(self, key: str, name: str | None = None) -> C:
        """The customer with this id, made when there is none. Raises InvalidInput for what is no id here."""
        known = self._by_key.get(key)
        if known is not None:
            return known
        if not self._pattern.fullmatch(key):
            raise InvalidInput(f"a customer's id matches {self._pattern.pattern}")
        tongue = self.rng.choice(TONGUES)
        return self._add(self.made(key, name or self.name(tongue), tongue))

    def ensure(self, count: int) -> list[C]:
        """The first `count` customers, invented as needed. Raises Unavailable beyond the limit."""
        while len(self.everybody) < count:
            self._add(self.invent())
        return self.everybody[:count]

    def rename(self, customer: C, before: str, now: str) -> None:
        """A customer is found by another id from now on."""
        del self._by_key[before]
        self._by_key[now] = customer
        customer.key = now

    def name(self, tongue: Tongue) -> str:
        return f"{self.rng.choice(tongue.first_names)} {self.rng.choice(tongue.last_names)}"

    def draw_kind(self, customer: C, weights: Mapping[str, float] | None = None) -> str:
        """A kind for what this customer says next, by `weights` in place of `kinds`. Subclasses turn what
        needs a past into a text where there is none."""
        chances = self.kinds if weights is None else weights
        return self.rng.choices(tuple(chances), tuple(chances.values()))[0]

    def sentence(self, customer: C) -> str:
        return self.rng.choice(customer.tongue.sentences if customer.said else customer.tongue.openings)

    def _add(self, customer: C) -> C:
        if len(self.everybody) >= CUSTOMERS_MAX:
            raise Unavailable(f"There are {CUSTOMERS_MAX} customers already.", code="cast_full")
        self.everybody.append(customer)
        for key in self.keys(customer):
            self._by_key[key] = customer
        return customer

"""The people who write to agents, and those who review.

Promises    The same seed gives the same people saying the same things. Ids are made up and look like the
            platform's. What has no id of its own gets the one in the ledger that a reader who follows the
            adapter's rule finds (`adapters/google_business/messages.py`, `reviews.py`).
"""

import random
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from adapters.simulators.phrases import TONGUES, Tongue
from adapters.simulators.playing.cast import Cast, Customer

WRITTEN: Final = {"text": 80, "image": 8, "suggestion": 6, "live_agent": 2, "survey": 1}
REVIEWED: Final = {"review": 70, "stars": 10, "changed": 20}


class Writers(Cast[Customer]):
    """Customers of agents; a conversation is all that is known of one, and a name."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng, kinds=WRITTEN, key_pattern="[0-9A-Za-z-]{1,60}")

    def made(self, key: str, name: str, tongue: Tongue) -> Customer:
        return Customer(key, name, tongue)

    def invent(self) -> Customer:
        tongue = self.rng.choice(TONGUES)
        return self.made(str(UUID(int=self.rng.getrandbits(128), version=4)), self.name(tongue), tongue)

    def draw_kind(self, customer: Customer, weights: Mapping[str, float] | None = None) -> str:
        kind = super().draw_kind(customer, weights)
        return "text" if kind == "suggestion" and not customer.heard else kind


class Reviewers(Cast[Customer]):
    """One for each review, which is what they are known by."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng, kinds=REVIEWED, key_pattern="reviews/[0-9A-Za-z_-]{1,100}")

    def made(self, key: str, name: str, tongue: Tongue) -> Customer:
        return Customer(key, name, tongue)

    def invent(self) -> Customer:
        tongue = self.rng.choice(TONGUES)
        return self.made(f"reviews/AbFvOq{self.rng.getrandbits(96):024x}", self.name(tongue), tongue)

    def another(self) -> Customer:
        """Somebody who has not reviewed yet."""
        return self._add(self.invent())

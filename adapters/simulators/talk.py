"""How lively the customers are, as data."""

from msgspec import Struct


class Talk(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How customers talk. Ends after `seconds` or `messages_max`, or when stopped.

    `messages_per_second` is the mean over all accounts, bursts included, answers to agents not.
    """

    customers: int = 30
    messages_per_second: float = 3.0
    seconds: float | None = None
    messages_max: int | None = None
    burst_probability: float = 0.15
    burst_max: int = 5
    answer_probability: float = 0.35
    """Below 1, so that a customer and an automatic reply do not answer each other for ever."""
    answer_seconds: tuple[float, float] = (0.3, 3.0)
    weights: dict[str, float] | None = None
    """How often which kind is said, unasked; None: as the platform's own customers do."""

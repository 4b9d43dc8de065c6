"""What happens after a platform declined: again in a while, never, or not before a person has acted. Pure.

The number of attempts is the only memory, because it is what the outbox row keeps: a restart changes nothing.

    class                    waits                                     gives up after
    rate_account, transient, 1 s, doubling to 5 minutes                295 attempts, about 24 h
    unreachable
    rate_pair                4^n s before try n (sheet, 6.1)           7 attempts, about 1.5 h
    spam_pause               1 h, doubling to 6 h                      6 attempts, about 25 h
    auth                     until the account's credentials change    never
    all others               -                                         at once
"""

from random import Random
from typing import Final

from msgspec import Struct

from adapters.port import Declined, ErrorClass

SIGNAL_ATTEMPTS_MAX: Final = 2
"""A read mark or a typing sign is worth one more try; by then it is nearly stale."""

UNKNOWN_MAX: Final = 3
"""Sends of one message whose outcome stayed unknown. Each may have reached the customer; a fourth copy of the
same message harms more than a message that is shown as failed and can be retried by a person."""

UNKNOWN_ATTEMPTS_MAX: Final = 10
"""The same bound across restarts, which forget how many of the attempts had an unknown outcome."""


class RetryIn(Struct, frozen=True):
    seconds: float


class GiveUp(Struct, frozen=True):
    """Tell the conversation: refused."""


class Halt(Struct, frozen=True):
    """Stop the account and keep the message."""


class _Plan(Struct, frozen=True):
    first: float
    factor: float
    most: float
    attempts_max: int


_TROUBLE = _Plan(first=1.0, factor=2.0, most=300.0, attempts_max=295)

_PLANS: Final = {
    ErrorClass.RATE_ACCOUNT: _TROUBLE,
    ErrorClass.TRANSIENT: _TROUBLE,
    ErrorClass.UNREACHABLE: _TROUBLE,
    ErrorClass.RATE_PAIR: _Plan(first=4.0, factor=4.0, most=4_096.0, attempts_max=7),
    ErrorClass.SPAM_PAUSE: _Plan(first=3_600.0, factor=2.0, most=21_600.0, attempts_max=6),
}

_JITTER: Final = 0.2
"""Waits are lengthened by up to a fifth, so that what failed together does not come back together."""


def after(declined: Declined, attempts: int, random: Random) -> RetryIn | GiveUp | Halt:
    """The next step after the `attempts`-th attempt (1 is the first). Never before the platform's
    Retry-After."""
    if declined.error_class is ErrorClass.AUTH:
        return Halt()
    plan = _PLANS.get(declined.error_class)
    if plan is None or attempts >= plan.attempts_max:
        return GiveUp()
    # The exponent is capped because floats overflow; the wait has reached its most long before.
    wait = min(plan.most, plan.first * plan.factor ** min(attempts - 1, 32))
    wait = max(wait, declined.retry_after_seconds or 0.0)
    return RetryIn(wait * (1.0 + _JITTER * random.random()))

"""Passwords: argon2id off the loop, and a brake on guessing.

Promises   Hashing never holds up the trio thread, and at most `HASHES_AT_ONCE` run beside each other: each
           takes 64 MiB and a core for tens of milliseconds, so a flood of logins must queue, not multiply.
           An unknown e-mail costs the same time and gets the same answer as a wrong password.
Cancel     A cancelled caller leaves at once; its thread finishes and the result is dropped.
"""

from typing import Final

import trio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from engine.errors import InvalidInput, MailboxFull, Unauthenticated
from engine.reading import Login
from gateway.ratelimit import Buckets, Rate, refuse_over

CHARACTERS_MIN: Final = 8
"""NIST SP 800-63B, 5.1.1.2."""

CHARACTERS_MAX: Final = 256
"""Room for any pass phrase; argon2 would take more, but hashing megabytes is a way to waste our time."""

HASHES_AT_ONCE: Final = 2
HASHES_WAITING_MAX: Final = 64
"""Beyond this a login would wait for more than two seconds; better told so."""

ATTEMPTS_PER_EMAIL: Final = Rate(per_second=1 / 30, burst=10)
"""Ten slips of the pen, then one try each half minute: 2,900 guesses a day are nothing against eight
characters, and an owner locked out by somebody else's guessing waits half a minute, not a day."""

ATTEMPTS_PER_ADDRESS: Final = Rate(per_second=0.5, burst=30)
"""Room for an office's slips of the pen; a list of stolen passwords is slowed to
1,800/hour."""

_REFUSED = "E-mail or password is wrong."


class Passwords:
    """Hashes and verifies. One per process."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._limiter = trio.CapacityLimiter(HASHES_AT_ONCE)
        self._nobody = self._hasher.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        """The argon2id hash to store. Raises InvalidInput when the password is too short or too long."""
        check_password(password)
        self._refuse_when_full()
        return await trio.to_thread.run_sync(
            self._hasher.hash, password, limiter=self._limiter, abandon_on_cancel=True
        )

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Whether `password` is the one; `None` (nobody) takes as long and is never right."""
        self._refuse_when_full()
        return await trio.to_thread.run_sync(
            self._matches, password_hash, password, limiter=self._limiter, abandon_on_cancel=True
        )

    def statistics(self) -> dict[str, int]:
        counts = self._limiter.statistics()
        return {"hashing": counts.borrowed_tokens, "waiting": counts.tasks_waiting}

    def _refuse_when_full(self) -> None:
        if self._limiter.statistics().tasks_waiting >= HASHES_WAITING_MAX:
            raise MailboxFull("Too many logins at once; try again in a moment.")

    def _matches(self, password_hash: str | None, password: str) -> bool:
        try:
            self._hasher.verify(password_hash or self._nobody, password)
        except (VerificationError, InvalidHashError):
            return False
        return password_hash is not None


class LoginGuard:
    """Decides on one login attempt, for logins of people and of landlord admins alike."""

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords
        self._emails: Buckets[str] = Buckets(ATTEMPTS_PER_EMAIL)
        self._addresses: Buckets[str] = Buckets(ATTEMPTS_PER_ADDRESS)

    def admit(self, email: str, address: str) -> None:
        """Raises RateLimited. Before anything is looked up, so that it tells nothing about the e-mail."""
        now = trio.current_time()
        refuse_over(self._addresses.take(address, now), "Too many login attempts from this address.")
        refuse_over(self._emails.take(email.casefold(), now), "Too many login attempts for this e-mail.")

    def clear(self, email: str, address: str) -> None:
        """The attempt was no guess: it counts neither for the e-mail nor for the address, behind which a
        whole office may sit."""
        now = trio.current_time()
        self._addresses.give_back(address, now)
        self._emails.give_back(email.casefold(), now)

    async def check(self, login: Login | None, password: str) -> Login:
        """The login, if the password is right and it may be used. Raises Unauthenticated, always the same."""
        if len(password) > CHARACTERS_MAX:
            password = ""
        right = await self._passwords.matches(login.password_hash if login else None, password)
        if login is None or not right or not login.active:
            raise Unauthenticated(_REFUSED, code="wrong_credentials")
        return login


def check_password(password: str) -> None:
    """Raises InvalidInput unless the length is within the limits."""
    if not CHARACTERS_MIN <= len(password) <= CHARACTERS_MAX:
        sentence = f"Must have {CHARACTERS_MIN} to {CHARACTERS_MAX} characters."
        raise InvalidInput("The password cannot be used.", fields={"password": [sentence]})

"""What becomes of an accepted send, decided beforehand: which statuses, when, in which order."""

import random

from adapters.simulators.settings import Settings


def plan_statuses(rng: random.Random, settings: Settings, *, voice: bool) -> list[tuple[float, str]]:
    """(seconds after acceptance, status) of a message that arrives.

    Calm: `sent`, `delivered`, then perhaps `read` and, for voice, perhaps `played`, each after the other.
    With `status_disorder_probability` the same statuses change their moments, or `delivered` is left out
    before `read`; both happen on the real platform (sheet, section 7).
    """
    names = ["sent", "delivered"]
    if rng.random() < settings.read_probability:
        names.append("read")
        if voice and rng.random() < settings.played_probability:
            names.append("played")
    spans = {"sent": settings.sent_seconds, "delivered": settings.delivered_seconds}
    moments: list[float] = []
    elapsed = 0.0
    for name in names:
        elapsed += rng.uniform(*spans.get(name, settings.read_seconds))
        moments.append(elapsed)
    if rng.random() < settings.status_disorder_probability:
        if "read" in names and rng.random() < 0.4:
            where = names.index("delivered")
            del names[where], moments[where]
        else:
            rng.shuffle(names)
    return list(zip(moments, names, strict=True))


def draw_failure(rng: random.Random, settings: Settings) -> int | None:
    """The code with which an accepted send fails after all, or None."""
    if rng.random() < settings.failure_probability:
        return rng.choice(settings.failure_codes)
    return None

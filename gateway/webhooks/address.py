"""Where webhooks are posted: `/api/webhooks/{platform}`, or so with an endpoint's key behind."""

from typing import Final

from engine.errors import NotFound

PREFIX: Final = "/api/webhooks/"
_ALIASES: Final = {"pymob": "paymob"}
"""Existing shops have this spelling configured with the provider."""


def addressed(path: str) -> tuple[str, str | None]:
    """Platform and endpoint key of a path. Raises NotFound for another form."""
    parts = path.removeprefix(PREFIX).rstrip("/").split("/") if path.startswith(PREFIX) else []
    if not 1 <= len(parts) <= 2 or not all(parts):
        raise NotFound("There is nothing at this address.")
    return _ALIASES.get(parts[0], parts[0]), parts[1] if len(parts) == 2 else None


def seems_addressed(place: str) -> tuple[str, str]:
    """As `addressed` for what follows `PREFIX`, without a judgement of its form; the key is "" where there is
    none."""
    name, _, key = place.partition("/")
    return _ALIASES.get(name, name), key.rstrip("/")

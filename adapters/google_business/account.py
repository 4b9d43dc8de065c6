"""Does an account work? One harmless read, after a look at what it was given."""

from adapters.checking import SECONDS_MAX, lasting
from adapters.google_business.calling import GoogleCalls
from adapters.google_business.naming import is_location
from adapters.guard import Guard
from adapters.port import Account, Checked, Declined


async def check_account(account: Account, guard: Guard) -> Checked:
    """As `adapters.port.Adapter.check` promises."""
    location = is_location(account.external_id)
    missing = _missing(account, location)
    if missing is not None:
        return Checked(ok=False, detail=missing)
    # That an agent is read like this is unconfirmed: the service has ended, and its reference with it.
    path = f"{account.external_id}/reviews?pageSize=1" if location else account.external_id
    async with GoogleCalls(guard, connections_max=1, seconds_max=SECONDS_MAX) as calls:
        found = await calls.read(account, path)
    if isinstance(found, Declined):
        return Checked(ok=False, detail=lasting(found).message)
    facts = {
        name: found[name]
        for name in ("averageRating", "totalReviewCount", "displayName")
        if isinstance(found.get(name), int | float | str)
    }
    return Checked(ok=True, detail="Google accepts the credentials for this account.", facts=facts)


def _missing(account: Account, location: bool) -> str | None:
    """What deliveries could not be believed without."""
    given = account.credentials
    if location:
        names = [name for name in ("push_email", "push_audience") if not given.get(name)]
        return f"Pushes cannot be believed without {' and '.join(names)}." if names else None
    if not given.get("partner_key") and not given.get("client_token"):
        return "Messages cannot be believed without partner_key or client_token."
    return None

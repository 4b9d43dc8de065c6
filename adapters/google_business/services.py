"""The services of Google Business: public keys, with which pushes are verified, and a look for reviews that
nobody was told of (adapters/google_business/catching.py).

Promises    While a profile is connected its keys are there; which address they are had from follows the
            channel's settings. A profile that is disconnected or disabled has none: its pushes are turned
            away and wait at Google.
"""

from collections.abc import Sequence
from functools import partial

import trio

from adapters.google_business.catching import Catching
from adapters.google_business.keys import CERTS_URL, PublicKeys
from adapters.google_business.naming import is_location
from adapters.port import Account
from adapters.service import AccountService, Service, ServiceTools


def services_of(platform: str, keys: PublicKeys, tools: ServiceTools) -> Sequence[Service | AccountService]:
    return (
        Service(name="google.keys", run=partial(keys.run, tools.tools.guard)),
        AccountService(
            name="google.profiles",
            wants=_is_profile,
            run=partial(_use, keys),
        ),
        AccountService(name="google.reviews", wants=_is_profile, run=Catching(platform, tools).run),
    )


def _is_profile(account: Account) -> bool:
    return is_location(account.external_id)


def keys_url(account: Account) -> str:
    """Where the keys of the account's pushes are: Google's, or those of who plays it."""
    if given := account.settings.get("keys_url"):
        return str(given)
    return f"{account.base_url('')}/oauth2/v3/certs" if account.settings.get("base_url") else CERTS_URL


async def _use(keys: PublicKeys, account: Account, stopping: trio.Event) -> None:
    key = (account.tenant_id, account.channel_id)
    keys.use(key, keys_url(account))
    try:
        await stopping.wait()
    finally:
        keys.drop(key)

"""The services of Google Business: they keep the public keys that pushes are verified with.

Promises    While a profile is connected its keys are there; which address they are had from follows the
            channel's settings, and a profile that is disconnected or disabled has none.
"""

from collections.abc import Sequence
from functools import partial

import trio

from adapters.google_business.keys import CERTS_URL, PublicKeys
from adapters.google_business.naming import is_location
from adapters.port import Account
from adapters.service import AccountService, Service, ServiceTools


def key_services(keys: PublicKeys, tools: ServiceTools) -> Sequence[Service | AccountService]:
    return (
        Service(name="google.keys", run=partial(keys.run, tools.tools.guard)),
        AccountService(
            name="google.profiles",
            wants=lambda account: is_location(account.external_id),
            run=partial(_use, keys),
        ),
    )


def keys_url(account: Account) -> str:
    """Where the keys of the account's pushes are: Google's, or those of who plays it."""
    given, base = account.settings.get("keys_url"), account.settings.get("base_url")
    if given:
        return str(given)
    return f"{str(base).rstrip('/')}/oauth2/v3/certs" if base else CERTS_URL


async def _use(keys: PublicKeys, account: Account, stopping: trio.Event) -> None:
    key = (account.tenant_id, account.channel_id)
    keys.use(key, keys_url(account))
    try:
        await stopping.wait()
    finally:
        keys.drop(key)

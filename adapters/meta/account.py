"""Does an account work? And who is a customer? One harmless read each.

Promises    As `adapters.checking`: what passes by itself raises Unavailable.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec

from adapters.calling import token_problem
from adapters.checking import SECONDS_MAX, lasting, unreadable
from adapters.client import PlatformClient
from adapters.guard import Guard
from adapters.meta.composing import Dialect
from adapters.meta.errors import read_failure
from adapters.meta.graph import bearer, graph_url
from adapters.port import Account, Checked, Declined, Profile
from adapters.wire import Json, decoded

_facts: Final = msgspec.json.Decoder(dict[str, Any])
_ADDRESS_MAX: Final = 2_048
"""Of a picture: what browsers take for certain."""


async def read_node(
    dialect: Dialect, account: Account, guard: Guard, node: str, fields: str
) -> Json | Declined:
    """A node's fields."""
    url = graph_url(account, node, base_url=dialect.base_url_of(account))
    return await read(dialect, account, guard, url, {"fields": fields})


async def read(
    dialect: Dialect, account: Account, guard: Guard, url: str, parameters: Mapping[str, str]
) -> Json | Declined:
    """What the platform says with the account's token; a refusal that a person has to act on. Raises
    Unavailable."""
    if (problem := token_problem(account)) is not None:
        return problem
    failure = partial(read_failure, label=dialect.label)
    async with PlatformClient(
        guard, dialect.label, failure, connections_max=1, seconds_max=SECONDS_MAX
    ) as client:
        answer = await client.ask("GET", url, params=parameters, headers=bearer(account))
    if isinstance(answer, Declined):
        return lasting(answer)
    found = decoded(_facts, answer.content)
    if found is None:
        raise unreadable(dialect.label)
    return found


async def check_account(
    dialect: Dialect, account: Account, guard: Guard, *, node: str, fields: str, id_field: str
) -> Checked:
    """The account behind the token must be the one that is connected."""
    found = await read_node(dialect, account, guard, node, fields)
    if isinstance(found, Declined):
        return Checked(ok=False, detail=found.message)
    expected = dialect.node_of(account) if id_field == "id" else account.external_id
    if str(found.get(id_field)) != expected:
        return Checked(
            ok=False, detail=f"{dialect.label} answered about another account than the one connected."
        )
    facts = {name: found[name] for name in fields.split(",") if isinstance(found.get(name), str)}
    return Checked(ok=True, detail=f"{dialect.label} accepts the credentials for this account.", facts=facts)


async def read_profile(
    dialect: Dialect, account: Account, guard: Guard, key: str, fields: str
) -> Profile | None:
    """Name and picture of a person who wrote; None when the platform does not tell (no consent, no
    permission). The read is unconfirmed in the sheets."""
    found = await read_node(dialect, account, guard, key, fields)
    if isinstance(found, Declined):
        return None
    parts = [found.get(name) for name in ("first_name", "last_name")]
    whole = " ".join(part for part in parts if isinstance(part, str) and part)
    name = next((each for each in (whole, found.get("name"), found.get("username")) if each), None)
    picture = found.get("profile_pic")
    if not isinstance(name, str):
        return None
    usable = isinstance(picture, str) and picture.startswith("https://") and len(picture) <= _ADDRESS_MAX
    return Profile(name=name, avatar_url=picture if usable else None)

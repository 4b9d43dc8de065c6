"""Does an account work? And who is a customer? One harmless read each."""

from collections.abc import Mapping
from typing import Any, Final

import httpx
import msgspec
import trio

from adapters.calling import token_problem
from adapters.guard import Guard, guarded_client
from adapters.meta.errors import read_failure
from adapters.meta.sending import Dialect, bearer, graph_url
from adapters.port import Account, Checked, Declined, ErrorClass, Profile
from engine.errors import Unavailable

_SECONDS_MAX: Final = 15.0
_facts = msgspec.json.Decoder(dict[str, Any])


async def read_node(
    dialect: Dialect, account: Account, guard: Guard, node: str, fields: str
) -> dict[str, Any] | Declined:
    """GET a node's fields. As `call`."""
    return await call(dialect, account, guard, graph_url(dialect, account, node), {"fields": fields})


async def call(
    dialect: Dialect, account: Account, guard: Guard, url: str, parameters: Mapping[str, str]
) -> dict[str, Any] | Declined:
    """GET with the account's token. Raises Unavailable when the platform cannot be reached or has trouble of
    its own."""
    if (problem := token_problem(account)) is not None:
        return problem
    timeout = httpx.Timeout(_SECONDS_MAX, connect=5.0)
    try:
        async with guarded_client(guard, connections_max=1, timeout=timeout) as client:
            with trio.fail_after(_SECONDS_MAX):
                answer = await client.get(
                    url,
                    params=dict(parameters),
                    headers=bearer(account),
                    extensions={"body_bytes_max": 65_536},
                )
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, trio.TooSlowError) as error:
        raise Unavailable(
            f"{dialect.label} cannot be reached ({type(error).__name__}).",
            code="platform_unavailable",
            retry_after_seconds=5.0,
        ) from error
    if not answer.is_success:
        failure = read_failure(answer.status_code, answer.content, answer.headers)
        if isinstance(failure, Declined):
            if failure.error_class in (ErrorClass.TRANSIENT, ErrorClass.RATE_ACCOUNT):
                raise Unavailable(failure.message, code="platform_unavailable", retry_after_seconds=5.0)
            return failure
    else:
        try:
            return _facts.decode(answer.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    raise Unavailable(f"{dialect.label}'s answer cannot be understood.", code="platform_unavailable")


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
    usable = isinstance(picture, str) and picture.startswith("https://") and len(picture) <= 2_048
    return Profile(name=name, avatar_url=picture if usable else None)

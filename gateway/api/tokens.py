"""API tokens: one's own, named, narrowed to abilities, expiring, revocable. The secret is shown once."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from engine.domain.resources import rfc3339
from engine.errors import Forbidden, NotFound
from engine.reading import Page, Token
from gateway.authentication import new_token
from gateway.envelope import Answer
from gateway.permissions import EVERYTHING, Permission
from gateway.routing import Routes, TenantCall
from gateway.schemas import Input, Moment, Name, PageQuery, invalid, milliseconds

routes = Routes("api-tokens")


class TokenBody(Input, frozen=True, kw_only=True):
    """`abilities`: permissions, or `*` for whatever the user's role gives."""

    name: Name
    abilities: Annotated[tuple[str, ...], Meta(min_length=1, max_length=50)] = (EVERYTHING,)
    expires_at: Moment | None = None


class TokenOut(Struct, frozen=True, kw_only=True):
    id: int
    name: str
    abilities: tuple[str, ...]
    current: bool
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    created_at: str


class NewTokenOut(TokenOut, frozen=True, kw_only=True):
    """`token` is shown this once."""

    token: str


@routes.get("/api-tokens", needs=Permission.TOKENS_MANAGE, answer=TokenOut, paged=True)
async def list_tokens(call: TenantCall, query: PageQuery) -> Answer:
    """List one's own tokens for this tenant, revoked ones included."""
    page = await call.deps.landlord.tokens_of(call.caller.user_id, limit=query.limit, cursor=query.cursor)
    shown = [_out(call, token) for token in page.items if token.tenant_id in (None, call.tenant.id)]
    return Answer(data=Page(items=shown, next_cursor=page.next_cursor))


@routes.post("/api-tokens", needs=Permission.TOKENS_MANAGE, answer=NewTokenOut, status=201, secret=True)
async def create_token(call: TenantCall, body: TokenBody) -> Answer:
    """Create a token for this tenant. It can do no more than the token it is made with."""
    now = call.deps.engine.now()
    expires_at = milliseconds(body.expires_at)
    if expires_at is not None and expires_at <= now:
        raise invalid("expires_at", "Must lie in the future.")
    _check_abilities(call, body.abilities)
    token, text = new_token(
        token_id=call.deps.engine.new_id(),
        user_id=call.caller.user_id,
        tenant_id=call.tenant.id,
        name=body.name,
        abilities=body.abilities,
        expires_at=expires_at,
        now=now,
    )
    await call.deps.landlord.create_token(token)
    shown = _out(call, token)
    members = {name: getattr(shown, name) for name in shown.__struct_fields__}
    return Answer(
        data=NewTokenOut(**members, token=text), status=201, message="Token created; it is shown only now"
    )


@routes.get("/api-tokens/<id:token_id>", needs=Permission.TOKENS_MANAGE, answer=TokenOut)
async def show_token(call: TenantCall, token_id: int) -> Answer:
    """Show one of one's own tokens."""
    return Answer(data=_out(call, await _own(call, token_id)))


@routes.delete("/api-tokens/<id:token_id>", needs=Permission.TOKENS_MANAGE)
async def revoke_token(call: TenantCall, token_id: int) -> Answer:
    """Revoke one of one's own tokens, at once. Doing it again changes nothing."""
    token = await _own(call, token_id)
    if token.revoked_at is None:
        await call.deps.landlord.revoke_token(token_id, call.deps.engine.now())
    call.site.authenticator.forget_token(token_id)
    call.deps.rights_changed(call.tenant.id, token.user_id)
    return Answer(message="Token revoked")


async def _own(call: TenantCall, token_id: int) -> Token:
    token = await call.deps.landlord.token(token_id)
    mine = token is not None and token.user_id == call.caller.user_id
    if token is None or not mine or token.tenant_id not in (None, call.tenant.id):
        raise NotFound("There is no such token.")
    return token


def _check_abilities(call: TenantCall, abilities: Sequence[str]) -> None:
    known = {permission.value for permission in Permission} | {EVERYTHING}
    for ability in abilities:
        if ability not in known:
            raise invalid("abilities", f"{ability} is not a permission.")
    if EVERYTHING in call.caller.abilities:
        return
    if any(ability not in call.caller.abilities for ability in abilities):
        raise Forbidden("A token cannot make one that may do more than itself.")


def _out(call: TenantCall, token: Token) -> TokenOut:
    return TokenOut(
        id=token.id,
        name=token.name,
        abilities=token.abilities,
        current=token.id == call.caller.token_id,
        expires_at=rfc3339(token.expires_at),
        last_used_at=rfc3339(token.last_used_at),
        revoked_at=rfc3339(token.revoked_at),
        created_at=rfc3339(token.created_at) or "",
    )

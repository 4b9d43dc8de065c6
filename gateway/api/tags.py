"""Tags: the tenant's vocabulary for conversations."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from engine.domain.config import Tag
from engine.domain.resources import rfc3339
from engine.domain.tenant.messages import Remove, Save
from engine.errors import NotFound
from engine.reading import Page
from gateway.envelope import Answer
from gateway.paging import page_by_id
from gateway.permissions import Permission
from gateway.routing import Routes, TenantCall
from gateway.schemas import END, Input, PageQuery, given

routes = Routes("tags")

TagName = Annotated[str, Meta(min_length=1, max_length=60)]
Color = Annotated[str, Meta(pattern="^#[0-9a-fA-F]{6}" + END)]


class TagBody(Input, frozen=True, kw_only=True):
    name: TagName
    color: Color = "#6b7280"


class TagPatch(Input, frozen=True, kw_only=True):
    name: TagName | UnsetType = UNSET
    color: Color | UnsetType = UNSET


class TagOut(Struct, frozen=True, kw_only=True):
    id: int
    name: str
    color: str
    created_at: str
    updated_at: str


@routes.get("/tags", needs=Permission.TAGS_VIEW, answer=TagOut, paged=True)
async def list_tags(call: TenantCall, query: PageQuery) -> Answer:
    """List tags, oldest first."""
    page = page_by_id(call.config.tags.values(), lambda tag: tag.id, limit=query.limit, cursor=query.cursor)
    return Answer(data=Page(items=[_out(tag) for tag in page.items], next_cursor=page.next_cursor))


@routes.post("/tags", needs=Permission.TAGS_MANAGE, answer=TagOut, status=201)
async def create_tag(call: TenantCall, body: TagBody) -> Answer:
    """Create a tag. Names are unique, whatever their case."""
    save = Save(kind="tag", values={"name": body.name, "color": body.color}, by=call.by, trace=call.trace)
    return Answer(
        data=_out(await call.deps.engine.ask_tenant(call.tenant.id, save)), status=201, message="Tag created"
    )


@routes.get("/tags/<id:tag_id>", needs=Permission.TAGS_VIEW, answer=TagOut)
async def show_tag(call: TenantCall, tag_id: int) -> Answer:
    """Show one tag."""
    tag = call.config.tags.get(tag_id)
    if tag is None:
        raise NotFound("There is no such tag.")
    return Answer(data=_out(tag))


@routes.update("/tags/<id:tag_id>", needs=Permission.TAGS_MANAGE, answer=TagOut)
async def update_tag(call: TenantCall, tag_id: int, body: TagPatch) -> Answer:
    """Change a tag; members that are left out stay."""
    save = Save(kind="tag", id=tag_id, values=given(body), by=call.by, trace=call.trace)
    return Answer(data=_out(await call.deps.engine.ask_tenant(call.tenant.id, save)), message="Tag changed")


@routes.delete("/tags/<id:tag_id>", needs=Permission.TAGS_MANAGE)
async def delete_tag(call: TenantCall, tag_id: int) -> Answer:
    """Remove a tag. It disappears from every conversation."""
    await call.deps.engine.ask_tenant(
        call.tenant.id, Remove(kind="tag", id=tag_id, by=call.by, trace=call.trace)
    )
    return Answer(message="Tag removed")


def _out(tag: Tag) -> TagOut:
    return TagOut(
        id=tag.id,
        name=tag.name,
        color=tag.color,
        created_at=rfc3339(tag.created_at) or "",
        updated_at=rfc3339(tag.updated_at) or "",
    )

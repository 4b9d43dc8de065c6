"""What a client needs before it can connect to the push: the app of Pusher's protocol, and tickets."""

from msgspec import Struct

from engine.errors import NotFound
from gateway.envelope import Answer
from gateway.permissions import Permission
from gateway.push.rights import Viewer
from gateway.push.tickets import SECONDS
from gateway.routing import Routes, TenantCall

routes = Routes("push")


class PushAppOut(Struct, frozen=True, kw_only=True):
    """The key stands in clients; the secret signs for the tenant's back end and belongs nowhere else."""

    app_id: str
    key: str
    secret: str


class TicketOut(Struct, frozen=True, kw_only=True):
    """Good once: as `?ticket=` of `/ws`, or in the auth message."""

    ticket: str
    seconds: float


@routes.get("/push-app", needs=Permission.SETTINGS_MANAGE, answer=PushAppOut)
async def show_push_app(call: TenantCall) -> Answer:
    """Show the tenant's app for Pusher's protocol, with its secret."""
    app = await call.deps.push_apps.have(call.tenant.id)
    if app is None:
        raise NotFound("The app's secret cannot be read: it was sealed with another master key.")
    return Answer(data=PushAppOut(app_id=app.id, key=app.key, secret=app.secret.decode()))


@routes.post("/push-tickets", needs=Permission.CONVERSATIONS_VIEW, answer=TicketOut, status=201, secret=True)
async def create_ticket(call: TenantCall) -> Answer:
    """Make a ticket that opens one WebSocket, once and soon, in the place of a token in its URL."""
    viewer = Viewer(
        tenant_id=call.tenant.id, user_id=call.caller.user_id, name=call.caller.name, principal=call.caller
    )
    ticket = call.deps.tickets.make(viewer)
    return Answer(data=TicketOut(ticket=ticket, seconds=SECONDS), status=201, message="Ticket made")

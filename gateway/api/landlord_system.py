"""The operator's view of the running system."""

from typing import Any

from gateway.envelope import Answer
from gateway.routing import Access, Call, Routes

routes = Routes("system", prefix="/api/landlord", in_tenant=False)


@routes.get("/system/actors", needs=Access.LANDLORD, answer=dict[str, Any])
async def actors(call: Call) -> Answer:
    """Show the live tree of actors: address, state, mailbox depth, restarts."""
    return Answer(data=call.deps.engine.actors())

"""The HTTP API, a file per area. `ALL_ROUTES` is the whole of it, in the order of the document."""

from gateway.api import (
    automated_replies,
    bulk,
    channels,
    conversations,
    customers,
    events,
    files,
    landlord_auth,
    landlord_system,
    landlord_tenants,
    landlord_tokens,
    messages,
    notes,
    push,
    settings,
    tags,
    tokens,
    users,
)
from gateway.routing import Route

ALL_ROUTES: tuple[Route, ...] = tuple(
    route
    for area in (
        landlord_auth,
        landlord_tenants,
        landlord_tokens,
        landlord_system,
        conversations,
        bulk,
        messages,
        notes,
        customers,
        tags,
        automated_replies,
        users,
        channels,
        settings,
        files,
        tokens,
        events,
        push,
    )
    for route in area.routes.all
)

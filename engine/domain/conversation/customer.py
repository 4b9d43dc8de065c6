"""The customer behind a contact: what people change of him, and whom he is shown as. Pure.

The contact's actor writes its customer's row and nobody else does. What several customers have to agree on,
who is one person with whom, the customers actor decides, and each contact hears what follows for its own row.
"""

from engine.domain.conversation.changes import Change
from engine.domain.conversation.lifecycle import spread_name
from engine.domain.conversation.messages import ChangeCustomer, Link, Shared
from engine.domain.conversation.state import ContactState, snapshot
from engine.domain.customers.changing import apply_link, apply_values
from engine.domain.customers.messages import Linked, Renamed
from engine.domain.customers.messages import address_of as customers_of
from engine.errors import NotFound
from engine.runtime import Context, Effects, Tell


def change_customer(state: ContactState, message: ChangeCustomer, ctx: Context) -> Effects:
    """By a person."""
    customer = state.customer
    if customer is None or customer.id != message.customer_id:
        return Effects(refuse=NotFound("There is no such customer."))
    change = Change(state, ctx, message.trace)
    before = (customer.name, customer.avatar_url)
    audit = apply_values(customer, message, ctx)
    if audit is None:
        return Effects(reply=change.customer_resource())
    change.add(snapshot(customer))
    change.add(audit)
    change.customer_event()
    if spread_name(change, before) and customer.merged_into is None and state.conversation is not None:
        change.event("conversation.updated", state.conversation)
    return change.done(change.customer_resource())


def link_customer(state: ContactState, message: Link, ctx: Context) -> Effects:
    """From now on the contact's conversations show another customer."""
    customer = state.customer
    if customer is None or customer.id != message.customer_id:
        return Effects(refuse=NotFound("There is no such customer."))
    change = Change(state, ctx, message.trace)
    event = apply_link(customer, message)
    if event is not None:
        state.root = None
        change.add(snapshot(customer))
        change.customer_event(event)
        if state.conversation is not None:
            change.event("conversation.updated", state.conversation)
    if message.confirm:
        told = Linked(message.version, customer.id, message.trace)
        change.tell(Tell(customers_of(state.tenant_id), told))
    return change.done()


def share_customer(state: ContactState, message: Shared, ctx: Context) -> Effects:
    """Others show this customer's name. If it has changed since they were told of it, they hear of it
    again."""
    customer = state.customer
    if customer is None or customer.id != message.customer_id:
        return Effects()
    state.shared = True
    if (customer.name, customer.avatar_url) == (message.name, message.avatar_url):
        return Effects()
    return Effects(tell=(Tell(customers_of(state.tenant_id), Renamed(customer.id, message.trace)),))

"""Webhooks: from a request's bytes to the answer that the platform gets. Knows no web framework.

Promises   200 for a delivery only after everything in it is durable. `Webhooks.handle` never raises.
Limits     `WebhookLimits`; beyond them the answer says so, and nothing is half done that a repetition
           would double. A tenant that floods waits for itself (`gateway.turnstile`) and is refused at its
           share; the others neither wait nor are refused.
Leaves     reading the request under limits to the route or lane; signatures and payloads to the
           adapters' receivers; the effects to the intake.

Whom to believe, in this order:

1.  The key in the URL, which only the tenant and the platform know: exactly that endpoint's secret must
    have signed the body.
2.  Without a key, the signature: while a platform's accounts share a few apps, their secrets are tried and an
    unsigned body is not even parsed. With more apps than that, the account ids in the body choose whose
    secrets are tried.
3.  The account ids in the body, last: each event goes to its account's endpoint only if *that endpoint's*
    secret signed the body. A tenant who signs with his own secret can therefore name whatever account he
    likes and reaches his own alone; the other events are refused.

Some platforms announce what is new and do not hold it: their adapter reads it before the delivery is answered
(`engine.domain.inbound.Announced`), outside of the tenant's turn, and a delivery whose content cannot be read
now is refused, so that the platform keeps it.

What is authentic is never lost: a body that is not what the platform sends is stored as such, an event for
an account that nobody has connected is parked with the landlord, and both are answered 200, since platforms
repeat anything else for days. If one delivery holds events of several tenants (accounts of one app), the raw
bytes would show each what the others were written; each tenant is then given its own events as JSON instead.

Files, in the order in which a request meets them: `address` reads the path, `receivers` knows who reads the
platform's requests; `shedding` refuses unread. `claims` reads a delivery, `sorting` gives its events to the
`accounts` that they name, `announced` reads what they only name. `deliveries` makes of them what the intake
takes, `handover` brings it there, `parking` keeps what is nobody's. `outcomes` counts, logs and answers.
`work` is the request itself and goes along with all of it, `answers` are the answers, `handling` puts the
steps together.
"""

from gateway.webhooks.address import PREFIX
from gateway.webhooks.answers import Answer
from gateway.webhooks.handling import Rest, WebhookLimits, Webhooks

__all__ = ["PREFIX", "Answer", "Rest", "WebhookLimits", "Webhooks"]

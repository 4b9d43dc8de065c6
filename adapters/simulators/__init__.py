"""Platforms that are played, so that the engine can be run, shown and tested without the real ones.

`whatsapp.Simulator` is the WhatsApp Cloud platform: Graph API, signed webhooks, media, customers who talk.
It speaks real HTTP on a port of its own and can be scripted as an object or under `/__sim/` (see `control`).
`builders` makes every webhook of the platform as plain dicts; load generators and tests use it directly.

    builders    what is said            customers   who says it and when not asked
    webhooks    how it is told          graph       what is answered to the business
    ledger      what is certain         faults      what goes wrong on purpose
    settings    limits and habits       http        the wire

Nothing here is used by a server that talks to the real platform.
"""

from adapters.simulators.accounts import WhatsAppAccount, demo_account
from adapters.simulators.faults import Fault
from adapters.simulators.settings import Settings, Template
from adapters.simulators.talk import Talk
from adapters.simulators.whatsapp import Simulator

__all__ = ["Fault", "Settings", "Simulator", "Talk", "Template", "WhatsAppAccount", "demo_account"]

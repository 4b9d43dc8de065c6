"""Messages that a platform cannot carry, put so that it can: the rules that several adapters share.

Promises    Nothing of what the agent wrote is lost; each rule has a sentence, which the adapter gives as
            `Fitted.note` and lists in its capabilities.
"""

from typing import Final

from engine.domain.outbound import SendInteractive, SendLocation, SendText

NUMBERED: Final = "Sent as text with a numbered list of the choices."
LOCATED: Final = "Sent as text with a link to the map."


def numbered(send: SendInteractive) -> SendText:
    """Header, body, one numbered line for each choice, footer. The customer answers with a number or the
    words, which come back as text."""
    lines = [send.header, send.body]
    for number, option in enumerate(send.options, 1):
        more = f" - {option.description}" if option.description else ""
        lines.append(f"{number}. {option.title}{more}")
    lines.append(send.footer)
    return SendText(body="\n".join(line for line in lines if line))


def located(send: SendLocation) -> SendText:
    """Name, address and a link that every telephone opens in its map."""
    link = f"https://maps.google.com/?q={send.latitude:.6f},{send.longitude:.6f}"
    return SendText(body="\n".join(part for part in (send.name, send.address, link) if part))

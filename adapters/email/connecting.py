"""A connection to a mail server, by the addresses that the guard has found for its name.

Promises    The addresses are tried in their order, and nothing is looked up again; what is sent waits for no
            acknowledgement of what went before (TCP_NODELAY). Raises OSError, of the last address, and
            ssl.SSLError. Blocks: it belongs into a thread.
"""

import socket
import ssl
from collections.abc import Sequence


def connected(addresses: Sequence[str], host: str, port: int, seconds: float, *, tls: bool) -> socket.socket:
    """`seconds` for each address. With `tls` the server has to prove that it is `host`."""
    for address in addresses:
        try:
            found = socket.create_connection((address, port), seconds)
            break
        except OSError:
            if address == addresses[-1]:
                raise
    else:
        raise AssertionError("the guard gives one address at least")
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls:
        return ssl.create_default_context().wrap_socket(found, server_hostname=host)
    return found

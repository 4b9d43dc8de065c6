"""The proxy before PostgreSQL as a process of its own, so that relaying costs the load client nothing.

    python -m bench.chaos.proxy DSN DIRECTORY

Prints the DSN that leads through it. Then each line of standard input arms one act for the next commit,
which is answered by the line `cut` when it happened; `cut_all` cuts every connection at once.
"""

import sys
from pathlib import Path
from typing import Final

import trio

from tests.storage.proxy import Act, Proxy, abort_late, commit_late, lose_the_answer, lose_the_commit, proxied

ACTS: Final[dict[str, Act]] = {
    "commit_lost": lose_the_commit,
    "answer_lost": lose_the_answer,
    "commit_late": commit_late(0.3),
    "abort_late": abort_late(0.3),
}


def _told(act: Act) -> Act:
    async def act_and_tell(client: trio.SocketStream, server: trio.SocketStream, data: bytes) -> None:
        try:
            await act(client, server, data)
        finally:
            # Also when the other direction noticed the end first and cancelled us.
            print("cut", flush=True)

    return act_and_tell


def _told_at_once(act: Act) -> Act:
    async def tell_while_acting(client: trio.SocketStream, server: trio.SocketStream, data: bytes) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(act, client, server, data)
            # Its first step, to forward what commits, is done before anybody hears of it.
            await trio.sleep(0.01)
            print("cut", flush=True)

    return tell_while_acting


async def _serve(dsn: str, directory: Path) -> None:
    async with proxied(dsn, directory) as proxy:
        print(proxy.dsn, flush=True)
        await _obey(proxy)


async def _obey(proxy: Proxy) -> None:
    asked = trio.lowlevel.FdStream(0)
    waiting = b""
    while data := await asked.receive_some(4096):
        waiting += data
        while b"\n" in waiting:
            line, waiting = waiting.split(b"\n", 1)
            if line == b"cut_all":
                await proxy.cut_all()
                print("cut", flush=True)
            elif line == b"answer_withheld":
                # Long enough for whoever is told `cut` to kill the client meanwhile.
                proxy.at_commit = _told_at_once(proxy.withhold_the_answer(2.0))
            else:
                proxy.at_commit = _told(ACTS[line.decode()])


if __name__ == "__main__":
    trio.run(_serve, sys.argv[1], Path(sys.argv[2]))

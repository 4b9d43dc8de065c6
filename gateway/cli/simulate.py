"""`mijra simulate`: a platform to play with, in a process of its own."""

from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import click
import msgspec
from msgspec import Struct

from adapters.port import Play
from adapters.simulators import Talk
from gateway.cli.running import run, until_signalled
from gateway.cli.sandbox import spellings, stand_ins


class Wish(Struct, frozen=True, kw_only=True):
    """What the options ask for."""

    platform: str
    host: str
    port: int
    callback: str | None
    check: bool
    rate: float
    customers: int
    seconds: float | None
    seed: int
    rough: bool


@click.command("simulate")
@click.option(
    "--platform",
    type=click.Choice([spelling for name in stand_ins() for spelling in spellings(name)]),
    default=next(iter(stand_ins())),
    show_default=True,
    help="Which one.",
)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="0, the default, takes a free one.")
@click.option("--callback", metavar="URL", help="Where webhooks go. Without it the platform is silent.")
@click.option(
    "--check/--no-check",
    default=True,
    help="Whether the callback address must pass the platform's handshake.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 1_000),
    default=0.0,
    show_default=True,
    help="Messages per second that customers write, on average. Needs --callback.",
)
@click.option("--customers", type=click.IntRange(1, 100_000), default=36, show_default=True)
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="How long they talk.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed, the same customers.")
@click.option("--rough", is_flag=True, help="A bad day: duplicates, batches, disorder, failures.")
def command(
    platform: str,
    host: str,
    port: int,
    callback: str | None,
    check: bool,
    rate: float,
    customers: int,
    seconds: float | None,
    seed: int,
    rough: bool,
) -> None:
    """Play a platform until SIGTERM or Ctrl-C.

    Prints one JSON line as soon as it is ready: its URL (a channel's base URL), the account with its keys,
    and what was asked for. It is scripted over HTTP under /__sim/, where `curl URL/__sim/` lists the calls.
    """
    if rate and callback is None:
        raise click.UsageError("--rate needs --callback: nobody would hear the customers.")
    if callback is not None and urlsplit(callback).scheme not in ("http", "https"):
        raise click.BadParameter("must look like http://127.0.0.1:8080/…", param_hint="--callback")
    wish = Wish(
        platform=next(name for name in stand_ins() if platform in spellings(name)),
        host=host,
        port=port,
        callback=callback,
        check=check,
        rate=rate,
        customers=customers,
        seconds=seconds,
        seed=seed,
        rough=rough,
    )
    run(_play, wish)


async def _play(wish: Wish) -> None:
    stand_in = stand_ins()[wish.platform]
    keys = stand_in.demo_keys()
    simulator = stand_in.simulator(
        Play(accounts=[keys], seed=wish.seed, habits="rough" if wish.rough else "calm")
    )
    async with AsyncExitStack() as stack:
        asked = await stack.enter_async_context(until_signalled())
        await stack.enter_async_context(simulator.running(wish.host, wish.port))
        if wish.callback is not None:
            await simulator.connect(wish.callback, check=wish.check)
        line = {
            "simulator_url": simulator.base_url,
            "callback_url": wish.callback,
            "messages_per_second": wish.rate,
            **dict.fromkeys(spellings(wish.platform), keys),
        }
        click.echo(msgspec.json.encode(line))
        if wish.rate:
            simulator.start_talking(
                Talk(customers=wish.customers, messages_per_second=wish.rate, seconds=wish.seconds)
            )
        await asked.wait()

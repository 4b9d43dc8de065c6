"""Files that come slowly, late or never, and a store that takes none: the messages go on."""

from pathlib import Path

import trio

from adapters.simulators.faults import Fault
from tests.fixtures.system import Business, Json, Line, line, until
from tests.patience import PATIENCE_SECONDS


async def attachment_of(phone: Line, wamid: str) -> Json:
    (attachment,) = (await phone.stored(wamid))["attachments"]
    return dict(attachment)


async def reaches_state(phone: Line, wamid: str, state: str, seconds_max: float = PATIENCE_SECONDS) -> Json:
    async def there() -> Json | None:
        attachment = await attachment_of(phone, wamid)
        return attachment if attachment["state"] == state else None

    found: Json = await until(f"the file is {state}", there, seconds_max)
    return found


async def test_a_slow_file_holds_nobody_up(any_phone: Line) -> None:
    """The message is stored at once, the file when it has dripped in; the next customer's file overtakes."""
    any_phone.sim.fault(Fault(kind="slow", route="media_download", seconds=6.0, times=1))
    slow = any_phone.sim.send(any_phone.sim.cast.adopt(any_phone.new_customer()), "image")
    assert (await attachment_of(any_phone, slow))["state"] == "pending"
    quick = any_phone.sim.send(any_phone.sim.cast.adopt(any_phone.new_customer()), "image")
    await reaches_state(any_phone, quick, "stored")
    assert (await attachment_of(any_phone, slow))["state"] == "pending"
    await reaches_state(any_phone, slow, "stored")


async def test_a_file_that_fails_at_first_is_fetched_later(any_phone: Line) -> None:
    """An error of the platform at look-up and a cut download: tried again, the message is not repeated."""
    any_phone.sim.fault(Fault(kind="error", route="media_look_up", status=500, times=1))
    any_phone.sim.fault(Fault(kind="reset", route="media_download", times=1))
    wamid = any_phone.sim.send(any_phone.sim.cast.adopt(any_phone.new_customer()), "document")
    await reaches_state(any_phone, wamid, "stored")
    conversation_id = (await any_phone.stored(wamid))["conversation_id"]
    assert len(await any_phone.agent.messages(conversation_id)) == 1


async def test_a_file_that_is_gone_is_shown_as_failed(any_phone: Line) -> None:
    """The platform has no such file: after a few tries the attachment says failed; the message stays."""
    customer = any_phone.sim.cast.adopt(any_phone.new_customer())
    any_phone.sim.fault(Fault(kind="slow", route="media_look_up", seconds=0.2, times=1))
    wamid = any_phone.sim.send(customer, "image", "Look at this")
    for media_id in list(any_phone.sim.media._objects):
        any_phone.sim.media.delete(media_id)
    await reaches_state(any_phone, wamid, "failed")
    assert (await any_phone.stored(wamid))["content"]["caption"] == "Look at this"


async def test_an_object_store_that_takes_nothing_does_not_block_messages(
    fragile: Business, tmp_path: Path
) -> None:
    """Messages are stored and sent, uploads are refused with 503, files follow when the store is back."""
    server = fragile.server
    objects = server.data_dir / "objects"
    aside = server.data_dir / "objects.aside"
    async with line(fragile) as phone:
        await trio.to_thread.run_sync(_break, objects, aside)
        try:
            customer = phone.sim.cast.adopt(phone.new_customer())
            picture = phone.sim.send(customer, "image")
            assert (await attachment_of(phone, picture))["state"] == "pending"
            conversation = await phone.opened("A text")
            sent = await phone.agent.say(conversation["id"], "An answer")
            await phone.agent.reaches(sent, "read")
            upload = await phone.agent.call(
                "POST", "upload", files={"file": ("a.txt", b"text", "text/plain")}
            )
            assert upload.status_code == 503, upload.text
            assert upload.headers["Retry-After"]
        finally:
            await trio.to_thread.run_sync(_mend, objects, aside)
        await reaches_state(phone, picture, "stored")


def _break(objects: Path, aside: Path) -> None:
    """A file where the directory was: also root cannot write below it."""
    objects.mkdir(exist_ok=True)
    objects.rename(aside)
    objects.write_text("no directory")


def _mend(objects: Path, aside: Path) -> None:
    objects.unlink()
    aside.rename(objects)

"""A merge on the screens: pushed in the order of the log, and made up to whoever was away."""

from tests.fixtures.system import Json, Line, screen


async def test_a_merge_reaches_screens_and_those_who_come_back(phone: Line) -> None:
    """Who listens and who comes back later read the same frames, each once, without a hole; in between both
    customers write on."""
    agent = phone.agent
    numbers = phone.new_customer(), phone.new_customer()
    ours = [await phone.opened(wa_id=number) for number in numbers]
    first, second = (conversation["customer"]["id"] for conversation in ours)
    await phone.sim.wait_quiet()
    async with screen(phone.business) as desk:
        start = (await agent.get("events", since=0, limit=1))["head"]
        await agent.post(f"customers/{first}/merge", {"customer_id": second})
        for number in numbers:
            await phone.stored(phone.sim.say(number, "and one more thing"))
        await agent.post(f"customers/{second}/unmerge")
        last = await desk.frame(lambda frame: frame.get("name") == "customer.unmerged")
        seen = _since(desk.events, start, last["cursor"])
    async with screen(phone.business, since=start) as later:
        await later.frame(lambda frame: frame.get("name") == "customer.unmerged")
        assert _since(later.events, start, last["cursor"]) == seen
    assert [frame["cursor"] for frame in seen] == list(range(start + 1, last["cursor"] + 1))
    about = {conversation["id"] for conversation in ours}
    shown = [
        frame["data"]["conversation"]["customer"]["id"]
        for frame in seen
        if frame["data"].get("conversation", {}).get("id") in about and frame["name"] == "message.received"
    ]
    assert shown == [first, first]
    names = [frame["name"] for frame in seen if "customer" in frame["data"]]
    assert names == ["customer.merged", "customer.unmerged"]


def _since(events: list[Json], start: int, last: int) -> list[Json]:
    return [frame for frame in events if start < frame["cursor"] <= last]

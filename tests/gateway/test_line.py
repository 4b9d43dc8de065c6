"""The line of requests that wait for their turn: its order, and who is refused on arrival under overload."""

from math import inf

from gateway.lane.line import TURN, Line


class Door:
    """So many places for each tenant while overloaded; `log` has what happened in its order."""

    def __init__(self, places: int = 100) -> None:
        self.overloaded = False
        self.asked: list[tuple[int, float]] = []
        self.places = places
        self.held: dict[int, int] = {}
        self.log: list[str] = []

    def is_overloaded(self, waiting: int, oldest: float) -> bool:
        self.asked.append((waiting, oldest))
        return self.overloaded

    def called(self, tenant: int) -> None:
        self.held[tenant] -= 1


class Request:
    def __init__(self, door: Door, name: str, tenant: int = 1) -> None:
        self.door = door
        self.name = name
        self.tenant = tenant

    def read(self) -> bool:
        return True

    def enter(self) -> int | None:
        if self.door.held.setdefault(self.tenant, 0) >= self.door.places:
            self.door.log.append(f"refused {self.name}")
            return None
        self.door.held[self.tenant] += 1
        return self.tenant

    def work(self, ready: float) -> bool:
        self.door.log.append(self.name)
        return True


def all_called(line: Line) -> None:
    while line:
        line.call()


def test_without_an_overload_nobody_is_looked_at_and_the_first_comes_first() -> None:
    door = Door()
    line = Line(door)
    line.open()
    for number in range(3 * TURN):
        line.push(Request(door, str(number), tenant=number % 2), ready=float(number))
    line.open()
    all_called(line)
    line.open()
    assert door.asked == [(0, inf), (3 * TURN, 0.0), (0, inf)]
    assert door.log == [str(number) for number in range(3 * TURN)]
    assert door.held == {}


def test_under_overload_who_has_no_place_is_refused_before_anybody_is_served() -> None:
    """A place is held until the turn, and free for what comes then."""
    door = Door(places=2)
    line = Line(door)
    door.overloaded = True
    line.open()
    for name in "abcd":
        line.push(Request(door, name), ready=1.0)
    assert door.log == ["refused c", "refused d"]
    line.call()
    line.push(Request(door, "e"), ready=2.0)
    all_called(line)
    assert door.log == ["refused c", "refused d", "a", "b", "e"]
    assert door.held == {1: 0}


def test_what_waits_when_the_overload_is_found_is_refused_then() -> None:
    """The last of it, since the first ones are served in time."""
    door = Door(places=3)
    line = Line(door)
    line.open()
    for name in "abcde":
        line.push(Request(door, name), ready=1.0)
    line.call()
    door.overloaded = True
    line.open()
    assert door.log == ["a", "refused e"]
    all_called(line)
    assert door.log == ["a", "refused e", "b", "c", "d"]


def test_under_overload_one_tenants_line_is_not_anothers() -> None:
    door = Door()
    line = Line(door)
    door.overloaded = True
    line.open()
    for _ in range(5 * TURN):
        line.push(Request(door, "flood"), ready=1.0)
    line.push(Request(door, "other", tenant=2), ready=2.0)
    all_called(line)
    assert door.log.index("other") <= TURN


def test_what_has_entered_comes_before_what_came_after_the_overload() -> None:
    door = Door()
    line = Line(door)
    door.overloaded = True
    line.open()
    line.push(Request(door, "a"), ready=1.0)
    line.push(Request(door, "b"), ready=1.0)
    door.overloaded = False
    line.open()
    assert door.asked == [(0, inf), (2, 1.0)]
    line.push(Request(door, "c"), ready=2.0)
    all_called(line)
    assert door.log == ["a", "b", "c"]
    assert door.held == {1: 0}

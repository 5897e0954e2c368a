"""How much is under way at a time: no more than there is room for, in the order of those who came."""

import trio

from vzfs.decoding.room import Room


class Guests:
    """Tasks that want room, and those who have it."""

    def __init__(self, room: Room, nursery: trio.Nursery) -> None:
        self.inside: list[str] = []
        self._room = room
        self._nursery = nursery
        self._scopes: dict[str, trio.CancelScope] = {}

    async def come(self, name: str, size: int) -> None:
        self._scopes[name] = trio.CancelScope()
        self._nursery.start_soon(self._stay, name, size)
        await trio.testing.wait_all_tasks_blocked()

    async def go(self, *names: str) -> None:
        for name in names:
            self._scopes[name].cancel()
        await trio.testing.wait_all_tasks_blocked()

    async def _stay(self, name: str, size: int) -> None:
        with self._scopes[name]:
            async with self._room.of(size):
                self.inside.append(name)
                try:
                    await trio.sleep_forever()
                finally:
                    self.inside.remove(name)


async def test_nobody_is_passed_over(nursery: trio.Nursery) -> None:
    """Who wants much is not passed over by those who come later and want little."""
    guests = Guests(Room(10), nursery)
    await guests.come("a", 6)
    await guests.come("b", 6)
    await guests.come("c", 1)
    assert guests.inside == ["a"]
    await guests.go("a")
    assert sorted(guests.inside) == ["b", "c"]


async def test_who_wants_more_than_there_is_has_it_alone(nursery: trio.Nursery) -> None:
    """A wish that is larger than the room is granted when nobody else is inside."""
    guests = Guests(Room(10), nursery)
    await guests.come("a", 1)
    await guests.come("b", 99)
    assert guests.inside == ["a"]
    await guests.go("a")
    await guests.come("c", 1)
    assert guests.inside == ["b"]
    await guests.go("b")
    assert guests.inside == ["c"]


async def test_who_gives_up_waiting_holds_nobody_up(nursery: trio.Nursery) -> None:
    """If one who waits is cancelled, those behind come in; nothing of the room is lost."""
    guests = Guests(Room(10), nursery)
    await guests.come("a", 6)
    await guests.come("b", 9)
    await guests.come("c", 4)
    await guests.go("b")
    assert guests.inside == ["a", "c"]
    await guests.go("a", "c")
    await guests.come("d", 10)
    assert guests.inside == ["d"]


async def test_who_is_let_in_and_gives_up_at_once_leaves(nursery: trio.Nursery) -> None:
    """If one is cancelled in the moment in which it is let in, its room is free again."""
    guests = Guests(Room(10), nursery)
    await guests.come("a", 10)
    await guests.come("b", 10)
    await guests.come("c", 10)
    await guests.go("b", "a")
    assert guests.inside == ["c"]

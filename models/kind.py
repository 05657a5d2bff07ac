"""The waiting jobs that ask for the same: who of them is first in line, and who is first of those that are short."""

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from math import inf
from operator import itemgetter
from uuid import UUID

from models.demand import Demand

Turn = tuple[int, UUID]  # a job by its place in the line, and its user
_place: Callable[[tuple[int, object]], int] = itemgetter(0)
_UNKNOWN = 1e300  # an estimate that is none: longer than all, and finite


class Kind:
    """Those of one queue with one demand, and of each user the first (`heads`, in order), which competes."""

    def __init__(self, queue: str, demand: Demand, turns: Sequence[Turn], seconds: Sequence[float | None]) -> None:
        """Line up the jobs by their turns; `seconds` are their estimates, None where there is none."""
        self.queue, self.demand = queue, demand
        self._turns = turns
        self._seconds = _FirstShort([_UNKNOWN if known is None else known for known in seconds])
        self._of_user: dict[UUID, deque[Turn]] = defaultdict(deque)
        for turn in turns:
            self._of_user[turn[1]].append(turn)
        self.heads = sorted(turns[0] for turns in self._of_user.values())

    @property
    def users(self) -> Iterable[UUID]:
        """Those who have had a job in it."""
        return self._of_user

    def take(self, turn: Turn) -> None:
        """Remove a job; where it is a head, the next of its user comes to its place."""
        self._seconds.take_away(bisect_left(self._turns, turn))
        of_user = self._of_user[turn[1]]
        if turn != of_user[0]:
            of_user.remove(turn)
            return
        self.set_aside(turn[1])
        of_user.popleft()
        self.bring_back(turn[1])

    def set_aside(self, user: UUID) -> None:
        """Let the first of this user not compete."""
        if of_user := self._of_user[user]:
            del self.heads[bisect_left(self.heads, of_user[0])]

    def bring_back(self, user: UUID) -> None:
        """Let the first of a user compete again who was set aside."""
        if of_user := self._of_user[user]:
            insort(self.heads, of_user[0])

    def waiting(self) -> Iterator[Turn]:
        """Yield all that wait, in the order of the line."""
        return self.not_longer(_UNKNOWN)

    def not_longer(self, seconds: float) -> Iterator[Turn]:
        """Yield those with an estimate of at most so many seconds, in the order of the line."""
        return (self._turns[place] for place in self._seconds.at_most(seconds))


class Kinds:
    """All kinds of a line, in the order of their heads; one for which nobody competes is left out meanwhile."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        """Put them in order."""
        self._order = sorted(((kind.heads[0][0], kind) for kind in kinds), key=_place)
        self._of_user: dict[UUID, list[Kind]] = defaultdict(list)
        for _, kind in self._order:
            for user in kind.users:
                self._of_user[user].append(kind)

    def __iter__(self) -> Iterator[tuple[Turn, Kind]]:
        """Yield the heads of the kinds, the first in line first."""
        return ((kind.heads[0], kind) for _, kind in self._order)

    def of(self, users: Iterable[UUID]) -> list[tuple[Turn, Kind]]:
        """Return the heads of the kinds in which these users had jobs, the first in line first."""
        kinds = {kind for user in users for kind in self._of_user[user] if kind.heads}
        return sorted(((kind.heads[0], kind) for kind in kinds), key=itemgetter(0))

    def take(self, kind: Kind, turn: Turn) -> None:
        """Remove a job from its kind."""
        self._change(kind, lambda: kind.take(turn))

    def set_aside(self, user: UUID) -> None:
        """Let no job of this user compete."""
        for kind in self._of_user[user]:
            self._change(kind, partial(kind.set_aside, user))

    def bring_back(self, user: UUID) -> None:
        """Let the jobs of a user compete again who was set aside."""
        for kind in self._of_user[user]:
            self._change(kind, partial(kind.bring_back, user))

    def _change(self, kind: Kind, change: Callable[[], None]) -> None:
        """Change a kind, and put it where its head is then."""
        if kind.heads:
            del self._order[bisect_left(self._order, kind.heads[0][0], key=_place)]
        change()
        if kind.heads:
            insort(self._order, (kind.heads[0][0], kind), key=_place)


class _FirstShort:
    """Numbers in an order, some of which are taken away; a tree of minima finds the first of those below a bound."""

    def __init__(self, numbers: Sequence[float]) -> None:
        """Build the tree: node n has the children 2n and 2n + 1, and the numbers are its leaves."""
        self._leaves = 1 << max(0, len(numbers) - 1).bit_length()
        self._least = [inf] * self._leaves + [*numbers] + [inf] * (self._leaves - len(numbers))
        for node in range(self._leaves - 1, 0, -1):
            self._least[node] = min(self._least[2 * node], self._least[2 * node + 1])

    def take_away(self, place: int) -> None:
        """Let the number at this place be found no more."""
        node = place + self._leaves
        self._least[node] = inf
        while node > 1:
            node //= 2
            self._least[node] = min(self._least[2 * node], self._least[2 * node + 1])

    def at_most(self, bound: float) -> Iterator[int]:
        """Yield the places of the numbers that are not above a finite bound, in order."""
        nodes = [1]
        while nodes:
            node = nodes.pop()
            if self._least[node] > bound:
                continue
            if node >= self._leaves:
                yield node - self._leaves
            else:
                nodes += (2 * node + 1, 2 * node)

"""The waiting jobs that ask for the same: who of them is first in line, and who is first of those that are short."""

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from heapq import heapify
from itertools import islice
from math import inf
from uuid import UUID

from models.demand import Demand

Turn = tuple[int, UUID]  # a job by its place in the line, and its user
_UNKNOWN = 1e300  # an estimate that is none: longer than all, and finite


class Kind:
    """Those of one queue with one demand, and of each user the first (`heads`, a heap), which competes."""

    def __init__(self, queue: str, demand: Demand, turns: Sequence[Turn], seconds: Sequence[float | None]) -> None:
        """Line up the jobs by their turns; `seconds` are their estimates, None where there is none."""
        self.queue, self.demand = queue, demand
        self._turns = turns
        self._seconds = _FirstShort([_UNKNOWN if known is None else known for known in seconds])
        self._of_user: dict[UUID, deque[Turn]] = defaultdict(deque)
        for turn in turns:
            self._of_user[turn[1]].append(turn)
        self.heads = [turns[0] for turns in self._of_user.values()]
        heapify(self.heads)

    def take(self, turn: Turn) -> None:
        """Remove a job; where it is a head, the next of its user comes to its place."""
        self._seconds.take_away(bisect_left(self._turns, turn))
        of_user = self._of_user[turn[1]]
        if turn != of_user[0]:
            of_user.remove(turn)
            return
        of_user.popleft()
        self.heads.remove(turn)
        self.heads += islice(of_user, 1)
        heapify(self.heads)

    def waiting(self) -> Iterator[Turn]:
        """Yield all that wait, in the order of the line."""
        return self.not_longer(_UNKNOWN)

    def not_longer(self, seconds: float) -> Iterator[Turn]:
        """Yield those with an estimate of at most so many seconds, in the order of the line."""
        return (self._turns[place] for place in self._seconds.at_most(seconds))


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

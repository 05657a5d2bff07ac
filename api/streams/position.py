"""How far a reader has come in the events of a job: what the id of an event says, to any API process."""

import re
from dataclasses import dataclass

_TEXT = re.compile(r"([0-9]{1,19})-([0-9]{1,10})-([0-9]{1,10})-([0-9]{1,19})-([0-9]{1,10})")
MOST_EPOCHS = 2**31 - 1
_GREATEST = (2**63 - 1, 2**31 - 1, MOST_EPOCHS, 2**63 - 1, 2**31 - 1)  # what the columns hold


@dataclass(frozen=True, slots=True)
class Position:
    """The newest event seen of each source; a new reader stands before them all.

    Each source grows in the order of its commits, because its rows are written under a lock on the job's: transitions
    and pieces of the log by their ids, epochs by attempt and epoch. An epoch that a later attempt records again thus
    counts as a new event. `closing` counts what follows a final status, the transition that the position names: the
    diagnosis, and the end. A job that is tried again has a further transition, behind which nothing closes it yet.
    """

    transition: int = 0
    attempt: int = 0
    epoch: int = 0
    log: int = 0
    closing: int = 0

    @classmethod
    def parse(cls, text: str) -> "Position | None":
        """Return the position that an event's id names, None where it names none."""
        match = _TEXT.fullmatch(text)
        numbers = [int(number) for number in match.groups()] if match else []
        if not numbers or any(number > most for number, most in zip(numbers, _GREATEST, strict=True)):
            return None
        return cls(*numbers)

    def __str__(self) -> str:
        return f"{self.transition}-{self.attempt}-{self.epoch}-{self.log}-{self.closing}"

    def covers(self, other: "Position") -> bool:
        """Whether somebody here has seen everything that somebody there has seen."""
        return (
            (self.transition, self.closing) >= (other.transition, other.closing)
            and (self.attempt, self.epoch) >= (other.attempt, other.epoch)
            and self.log >= other.log
        )

"""How long a runner takes to start, phase by phase; without torch, whose import is one of the phases."""

import time
from dataclasses import dataclass, field
from typing import Literal

from models.result import Startup

StartPhase = Literal["process", "import", "data", "network", "device"]


@dataclass
class Stopwatch:
    """Seconds of each phase since a runner was asked for; one phase follows the other without a gap.

    `moment` is the one of time.monotonic(), which all processes of a host share, at which the last phase ended.
    """

    moment: float
    seconds: dict[StartPhase, float] = field(default_factory=dict)

    def end(self, phase: StartPhase) -> None:
        """Count the time since the last end to this phase, which may have parts."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.moment
        self.moment = now

    def startup(self) -> Startup:
        """Return what was measured; a phase that was not gone through took no time."""
        return Startup(
            process_seconds=self.seconds.get("process", 0.0),
            import_seconds=self.seconds.get("import", 0.0),
            data_seconds=self.seconds.get("data", 0.0),
            network_seconds=self.seconds.get("network", 0.0),
            device_seconds=self.seconds.get("device", 0.0),
        )

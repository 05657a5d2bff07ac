"""What the commands share that measure: what they say meanwhile, the page that they write, and how they end."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from benchmarks.tables import with_section

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


def say(line: str) -> None:
    """Tell how far the measurement is, beside what is measured."""
    print(line, file=sys.stderr, flush=True)


def publish(text: str, section: str, page: Path | None) -> None:
    """Print what was found, and write it into a section of a page, if there is one to be written."""
    print(text)
    if page is not None:
        page.write_text(with_section(page.read_text(), section, text))


def run(main: Callable[[], int]) -> NoReturn:
    """Exit with what `main` returns; a SIGTERM goes the way that ends all that was started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())

"""How numbers and names are written in a sentence."""

from collections.abc import Sequence


def percent(fraction: float) -> str:
    """Write a fraction as a percentage: 0.1234 as `12.3 %`."""
    return f"{100 * fraction:.1f} %"


def number(value: float) -> str:
    """Write a loss or a score with four significant digits."""
    return f"{value:.4g}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Write the first names as a list, and how many more there are; there is at least one."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most:,} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"

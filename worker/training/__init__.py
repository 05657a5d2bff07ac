"""The training itself: torch alone, no database, no queue, no web."""

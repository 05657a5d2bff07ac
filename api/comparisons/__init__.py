"""Jobs beside each other: where they differ, how their curves run, and whether the difference may be chance."""

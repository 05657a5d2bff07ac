"""Who calls, and what they may do: tokens, scopes, the rate limit, and the first admin."""

"""How long a claim takes in a long line, and how soon a worker has a job that was just submitted."""

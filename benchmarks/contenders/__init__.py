"""One process a contender: each builds its training step, then steps when it is told to."""

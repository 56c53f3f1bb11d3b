"""How work is run: shard tasks on executors, training processes on launchers."""

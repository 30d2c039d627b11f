"""The playground: a run's agent, alive in its maze, in a browser."""

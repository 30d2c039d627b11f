"""A file for each format that can be read into trajectories."""

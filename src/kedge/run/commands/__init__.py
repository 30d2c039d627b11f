"""A file a command: its flags as a frozen dataclass, and what it does."""

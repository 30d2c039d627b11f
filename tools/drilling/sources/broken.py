"""Ways to break a file, whatever is in it."""

from __future__ import annotations

import random
from pathlib import Path


def truncated(rng: random.Random, data: bytes) -> bytes:
    """Its beginning."""
    return data[: rng.randrange(len(data) + 1)]


def flipped(rng: random.Random, data: bytes) -> bytes:
    """With some bits turned over."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 64)) if data else 0):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def beginning(rng: random.Random, data: bytes) -> bytes:
    """With bits turned over in its first bytes, where the headers are."""
    return flipped(rng, data[:64]) + data[64:]


def longer(rng: random.Random, data: bytes) -> bytes:
    """With something after its end."""
    return data + rng.randbytes(rng.choice((1, 100, 5000)))


def noise(rng: random.Random, data: bytes) -> bytes:
    """Something else."""
    return rng.choice(
        (b"", b"\0" * 100, b"\xff\xfe" * 40, rng.randbytes(300), b"null", b"PK\x03\x04", "ü漢\n".encode())
    )


WAYS = (truncated, truncated, flipped, flipped, beginning, longer, noise)


def breaks(rng: random.Random, path: Path) -> str:
    """Breaks a file, or what its name stands for; says how."""
    kind = rng.random()
    if kind < 0.06:
        path.unlink()
        return f"{path.name} is missing"
    if kind < 0.1:
        path.unlink()
        path.mkdir()
        return f"{path.name} is a folder"
    way = rng.choice(WAYS)
    path.write_bytes(way(rng, path.read_bytes()))
    return f"{path.name} {way.__name__}"

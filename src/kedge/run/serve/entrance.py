"""Who is let in: loopback alone unless told otherwise, and then nobody without a token."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from pathlib import Path

from kedge.errors import InputError

VARIABLE = "KEDGE_SERVE_TOKEN"
SHORTEST = 16
"""Characters of a token."""
MAKE_ONE = 'python -c "import secrets; print(secrets.token_urlsafe(32))" > token'


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_for(host: str, file: Path | None) -> str | None:
    """The token of a file, or of the environment; one line where a host needs one and there is none."""
    given = os.environ.get(VARIABLE, "")
    if file is not None:
        try:
            given = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--token-file {file}: cannot be read ({error})") from None
    token = given.strip() or None
    checked(host, token)
    return token


def checked(host: str, token: str | None) -> None:
    """One line where a token is missing, or is no secret."""
    if token is None and not is_loopback(host):
        raise InputError(
            f"host {host} can be reached from other machines, so clients need a token: make one ({MAKE_ONE}) "
            f"and give --token-file, or set {VARIABLE}"
        )
    if token is not None and (len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token):
        raise InputError(f"a token is at least {SHORTEST} printable characters without a space; make one: {MAKE_ONE}")


def lets_in(token: str | None, header: str) -> bool:
    """Whether an `Authorization` header holds the token: as `Api-Key`, which openpi's clients send, or `Bearer`. It
    takes as long to say no to one that is nearly right as to one that is all wrong.
    """
    if token is None:
        return True
    scheme, _, given = header.partition(" ")
    same = hmac.compare_digest(_digest(given.strip()), _digest(token))
    return same and scheme.lower() in ("api-key", "bearer")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()

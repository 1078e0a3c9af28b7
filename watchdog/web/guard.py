"""Who may change state over HTTP. Pure: the headers of a request in, a refusal with its reason out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit


class RefusalReason(StrEnum):
    """The value is the word in the log and in the answer."""

    CROSS_SITE = "cross_site"
    NO_TOKEN_CONFIGURED = "no_token_configured"  # noqa: S105  (a reason, not a password)
    WRONG_TOKEN = "wrong_token"  # noqa: S105  (likewise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An HTTP status, the reason, and what to do about it."""

    status: int
    reason: RefusalReason
    words: str


def refuse_change(headers: Mapping[str, str], token: str | None) -> Refusal | None:
    """None when the request may change something. headers: names in any case; token: the configured one.

    A browser says where a request comes from (Sec-Fetch-Site, Origin); what comes from another site is refused even
    with the token, and what says nothing is no browser.
    """
    if _is_cross_site(headers):
        return Refusal(
            status=403,
            reason=RefusalReason.CROSS_SITE,
            words="a page of another site may change nothing here",
        )
    if token is None:
        return Refusal(
            status=403,
            reason=RefusalReason.NO_TOKEN_CONFIGURED,
            words=(
                'nothing can be changed over HTTP until a token is configured: [web] token = "env:NAME" or "file:PATH";'
                " `watchdog incidents ack` and `watchdog silence` need none"
            ),
        )
    if not _holds_token(headers.get("authorization", ""), token):
        return Refusal(
            status=401,
            reason=RefusalReason.WRONG_TOKEN,
            words="the header `Authorization: Bearer TOKEN` with the token of [web] is needed",
        )
    return None


def _is_cross_site(headers: Mapping[str, str]) -> bool:
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc != headers.get("host")  # "null" has none; a proxy may have changed the scheme
    except ValueError:
        return True


def _holds_token(authorization: str, token: str) -> bool:
    """In constant time. Bytes: the header arrives as Latin-1, the token may be any UTF-8."""
    scheme, _, given = authorization.partition(" ")
    given_bytes = given.strip(" \t").encode("latin-1", "replace")
    return scheme.lower() == "bearer" and secrets.compare_digest(given_bytes, token.encode())

"""How values are spelled in the configuration and on the command line: durations, sizes, secrets, names, addresses."""

from __future__ import annotations

import math
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import httpx
from pydantic import BaseModel, BeforeValidator, Field, SecretStr

from probes.printable import one_line
from probes.prometheus import parse_selector

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MAX_BYTES = 2**60  # more than any machine has, and no trouble for a database
MAX_SECRET_BYTES = 64 * 1024  # a file that is longer holds something else
MAX_DURATION_S = 36500 * 86400.0  # beyond it the calendar's own types overflow


def parse_duration(value: object) -> float:
    """Seconds from "500ms", "30s", "10m", "4h", "7d" or a number of seconds. Raises ValueError for anything else."""
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if abs(value) <= MAX_DURATION_S else math.inf  # an integer may be too large for a float
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError('must be a duration like "500ms", "30s", "10m", "4h" or "7d", or a number of seconds')
        seconds = float(match[1]) * _UNITS_S[match[2]]
    if not math.isfinite(seconds) or seconds > MAX_DURATION_S:
        raise ValueError('must be a duration of at most "36500d"')
    return seconds


def parse_bytes(value: object) -> int:
    """Bytes from "16MB", "8GiB" or a number of bytes. Raises ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        size: float = value
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?B|B)\s*", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError('must be a size like "16MB" or "8GiB", or a number of bytes')
        size = float(match[1]) * _UNITS_BYTES[match[2]]
    if size > MAX_BYTES:
        raise ValueError(f"must be a size of at most {MAX_BYTES} bytes")
    return int(size)


class KeptSecret(SecretStr):
    """A secret that knows the variable that holds it; None when a file does."""

    def __init__(self, found: str, *, variable: str | None = None) -> None:
        super().__init__(found)
        self.variable = variable

    def __eq__(self, other: object) -> bool:
        """By the secret alone, wherever it is kept."""
        return isinstance(other, SecretStr) and self.get_secret_value() == other.get_secret_value()

    def __hash__(self) -> int:
        return super().__hash__()


def secret_variables(value: object) -> frozenset[str]:
    """The variables that hold secrets of a configuration, or of a part of it: no child process needs them."""
    if isinstance(value, BaseModel):
        return secret_variables([item for _, item in value])
    if isinstance(value, dict):
        return secret_variables(list(value.values()))
    if isinstance(value, list):
        return frozenset().union(*map(secret_variables, value))
    return frozenset({value.variable} if isinstance(value, KeptSecret) and value.variable else ())


def resolve_secret(value: object) -> KeptSecret:
    """A secret from `env:NAME` or `file:PATH` (white space around it removed). Raises ValueError when it is not there.

    A literal is refused: configuration files are copied into tickets.
    """
    kind, _, where = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind == "env" and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", where):
        found, origin = os.environ.get(where, "").strip(), f"the environment variable {where}"
        if not found:
            raise ValueError(f"{origin} is not set")
    elif kind == "file" and where:
        found, origin = _read_file(where), where
        if not found:
            raise ValueError(f"{origin} is empty")
    else:
        raise ValueError('must be "env:NAME" or "file:PATH"')
    if "\x00" in found or re.search("[\ud800-\udfff]", found):
        raise ValueError(f"{origin} is not UTF-8 text")
    return KeptSecret(found, variable=where if kind == "env" else None)


def _read_file(where: str) -> str:
    """The text without white space around it. Raises ValueError; what the file holds is never part of it."""
    try:
        with Path(where).open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read {where}: {error.strerror}") from None
    except ValueError:
        raise ValueError("cannot read it: no file has such a name") from None
    if len(content) > MAX_SECRET_BYTES:
        raise ValueError(f"cannot read {where}: more than {MAX_SECRET_BYTES} bytes are no secret")
    try:
        return content.decode().strip()
    except UnicodeDecodeError:
        raise ValueError(f"cannot read {where}: not UTF-8 text") from None


def _is_reference(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("env:", "file:"))


def _read_header(value: object) -> SecretStr:
    """A header's value, or where it is kept. Masked either way: it may be a key."""
    if _is_reference(value):
        secret: SecretStr = resolve_secret(value)
    elif isinstance(value, str):
        secret = SecretStr(value)
    else:
        raise ValueError('must be a string, "env:NAME" or "file:PATH"')
    if not re.fullmatch(r"[\t\x20-\x7e]*", secret.get_secret_value()):
        raise ValueError("must be one line of printable ASCII: HTTP carries nothing else in a header")
    return secret


def _read_address(value: object) -> SecretStr:
    """A notifier's URL, or where it is kept. Masked either way: whoever knows it may post."""
    if isinstance(value, str) and not _is_reference(value):
        try:
            return SecretStr(check_url(value))
        except ValueError:
            raise ValueError('must be "env:NAME", "file:PATH", or a URL with http:// or https://') from None
    secret = resolve_secret(value)
    try:
        check_url(secret.get_secret_value())
    except ValueError:
        raise ValueError(f"{value} does not hold a URL with http:// or https://") from None
    return secret


def check_url(value: object) -> str:
    """The URL as it was given. Raises ValueError when nothing could be asked there."""
    if not isinstance(value, str) or not re.match(r"https?://[^\s/]+", value):
        raise ValueError("must be a URL that begins with http:// or https://")
    try:
        url = httpx.URL(value)
    except httpx.InvalidURL as error:
        why = one_line(str(error).lower(), limit=80)
        raise ValueError(f"must be a URL that begins with http:// or https://: {why}") from None
    if not url.host or (url.port or 0) > 65535:
        raise ValueError("must be a URL with a host and a port up to 65535")
    return value


def _check_asked_url(value: object) -> str:
    """A URL that is shown in messages and on the page, so that it must hold no password."""
    url = check_url(value)
    if httpx.URL(url).userinfo:
        raise ValueError('must hold no user name and password; put them into headers: { Authorization = "env:NAME" }')
    return url


def _check_listen(value: object) -> object:
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):(\d{1,5})", value) if isinstance(value, str) else None
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ValueError('must be host:port, for example "127.0.0.1:9477" or "[::1]:9477"')
    return value


def _check_device(value: object) -> object:
    is_index = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 64
    if is_index or (isinstance(value, str) and re.fullmatch(r"(GPU|MIG)-[\w/.-]{1,80}", value)):
        return value
    raise ValueError('must be a UUID like "GPU-..." or "MIG-...", as nvidia-smi -L shows them, or an index like 0')


def _check_metric(value: object) -> object:
    parse_selector(value if isinstance(value, str) else "")
    return value


def _check_name(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError("must be 1 to 64 letters, digits, '_', '.' or '-', the first a letter or digit")
    return value


Length = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]  # a duration that may be nothing
Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Size = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
Secret = Annotated[SecretStr, BeforeValidator(resolve_secret)]
Header = Annotated[SecretStr, BeforeValidator(_read_header)]
Address = Annotated[SecretStr, BeforeValidator(_read_address)]
Metric = Annotated[str, BeforeValidator(_check_metric)]
Device = Annotated[int | str, BeforeValidator(_check_device)]
Name = Annotated[str, BeforeValidator(_check_name)]
Url = Annotated[str, BeforeValidator(_check_asked_url)]
Listen = Annotated[str, BeforeValidator(_check_listen)]
Share = Annotated[float, Field(gt=0, le=1)]

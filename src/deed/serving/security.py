"""Who may ask, and how much at once: keys, sizes of bodies, other pages' scripts, and headers of every answer."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .api_errors import ApiError, error_response
from .settings import ServeSettings, is_loopback

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

KEY_VARIABLE = "DEED_API_KEY"
OPEN = ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/favicon.ico")  # and what is below /page/
DURING_THE_END = ("/healthz", "/readyz", "/metrics")  # answered while the server ends
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
}


def read_keys(given: str | None, file: Path | None) -> tuple[str, ...]:
    """The keys that a server takes: one given, those of a file (one a line, `#` begins a comment), or of `DEED_API_KEY`.

    Args:
        given: by `--api-key`.
        file: by `--api-key-file`.

    Raises:
        ValueError: a file without a key or that others may read, a key that is too short or cannot stand in a header.
    """
    keys = [given] if given is not None else []
    if file is not None:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise ValueError(f"--api-key-file {file} holds no key: one a line")
        if os.name == "posix" and file.stat().st_mode & 0o077:
            raise ValueError(f"--api-key-file {file} can be read by others: chmod 600 {file}")
        keys += found
    if not keys and os.environ.get(KEY_VARIABLE):
        keys = [os.environ[KEY_VARIABLE]]
    for key in keys:
        if len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("an API key has at least 8 characters, ASCII letters, digits and signs without spaces")
    return tuple(dict.fromkeys(keys))


class Keys:
    """Compares in constant time: digests of one length, and always all of them.

    Args:
        keys: that are taken; none: nobody is asked.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def takes(self, given: str | None) -> bool:
        """Whether this key is one of them; anything where there are none."""
        if not self._digests:
            return True
        digest = hashlib.sha256((given or "").encode("utf-8", "surrogateescape")).digest()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found and given is not None


class Guard:
    """In front of every endpoint: refuses what is too large, packed, from elsewhere or without a key, before it is read.

    The key of LibreTranslate's clients comes in the body, so those endpoints ask for it themselves (`Keys`).

    Args:
        app: what is guarded.
        settings: limits and origins.
        keys: that are taken.
        draining: says whether the server is about to end.
        body_keys: paths that ask for the key themselves.
    """

    def __init__(
        self, app: Any, settings: ServeSettings, keys: Keys, draining: Callable[[], bool], body_keys: Sequence[str]
    ) -> None:
        self.app, self.settings, self.keys, self.draining = app, settings, keys, draining
        self.body_keys = tuple(body_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                have = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((n.encode(), v.encode()) for n, v in HEADERS.items() if n.lower().encode() not in have),
                ]
            await send(message)

        try:
            self._check(path, scope["method"], headers)
        except ApiError as error:
            await error_response(path, error)(scope, receive, sent)
            return
        left, too_large = self.settings.limits.body_bytes, False

        async def counted() -> Any:
            nonlocal left, too_large
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    too_large = True
                    raise _TooLarge
            return message

        started = False

        async def watched(message: Any) -> None:
            nonlocal started
            if not too_large or started:  # else what the application made of half a body is dropped
                started = True
                await sent(message)

        try:
            await self.app(scope, counted, watched)
        except Exception:
            if not too_large:
                raise
        if too_large and not started:
            await error_response(path, self._too_large())(scope, receive, sent)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the request is larger than the limit of {self.settings.limits.body_bytes:,} bytes")

    def _check(self, path: str, method: str, headers: dict[str, str]) -> None:
        self._check_sender(headers)
        if self.draining() and path not in DURING_THE_END:
            raise ApiError(503, "the server is about to end; send the request again", retry_after=5)
        is_open = path in OPEN or path.startswith("/page/") or method == "OPTIONS"
        if not is_open and path not in self.body_keys and not self.keys.takes(bearer(headers)):
            raise ApiError(401, "an API key is needed: the header Authorization: Bearer KEY")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "packed request bodies are not taken; send it without Content-Encoding")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise ApiError(400, "Content-Length must be a number")
        if int(length) > self.settings.limits.body_bytes:
            raise self._too_large()

    def _check_sender(self, headers: dict[str, str]) -> None:
        """A web page from elsewhere, open in the user's browser, must not use a server that asks for no key."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.keys and is_loopback(self.settings.host) and host and not is_loopback(host_name(host)):
            raise ApiError(403, f"this server answers to localhost, not to {host_name(host)!r:.80}")
        if origin is not None and origin not in self.settings.origins and urlsplit_netloc(origin) != host:
            raise ApiError(403, "pages of this origin may not call the server (--allow-origin)")


class _TooLarge(Exception):
    pass


def urlsplit_netloc(origin: str) -> str:
    """Host and port of an origin; empty where it has none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def host_name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].strip("[]")
    return host.partition(":")[0]


def bearer(headers: dict[str, str]) -> str | None:
    """The key in an Authorization header; None without one."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" and key.strip() else None

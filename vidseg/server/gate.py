"""Gate: who may come in, before anything of a request is read; and what every answer carries."""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vidseg.server.limits import Rates
from vidseg.server.metrics import Metrics

COOKIE = "vidseg_token"
_OPEN = ("/healthz",)
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
SECURITY = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), display-capture=(), payment=(), usb=()",
    "cache-control": "no-store",
}


class Gate:
    """ASGI middleware. Refuses with 421, 401, 403 or 429, and puts the security headers on every answer.

    * ``Host`` must be an address, ``localhost`` or a name that was allowed: a page of a stranger whose name was pointed
      at this machine (DNS rebinding) sends its own.
    * ``Origin``, where a browser sends it, must be this server: no other page may post, or open a WebSocket.
    * The token, where one is needed, is in ``Authorization: Bearer`` or in a cookie, which a GET of ``/?token=…`` sets.

    Args:
        app: What is behind it.
        token: Or empty, where everybody on this machine may come in.
        hosts: Names by which the server may be called.
        rates: Of requests that cost something, and of wrong tokens.
        metrics: Counts refusals.
        secure: Whether the cookie is for TLS only.
    """

    def __init__(
        self, app: ASGIApp, *, token: str, hosts: Iterable[str], rates: Rates, metrics: Metrics, secure: bool
    ) -> None:
        self._app, self._token, self._rates, self._metrics, self._secure = app, token, rates, metrics, secure
        self._hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status, reason, more = self._judged(scope)
        if status:
            self._metrics.count("vidseg_refused_total", {"status": str(status)})
            await _refuse(scope, receive, send, status, reason, more)
            return

        async def guarded(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, guarded)

    def _judged(self, scope: Scope) -> tuple[int, str, dict[str, str]]:
        """Return a status, the reason and more headers; 0 lets the request in."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._known(host):
            return 421, "this server is not called by that name: start it with --allow-host NAME", {}
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "another page may not use this server", {}
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if headers.get("sec-fetch-site", "") in ("cross-site", "same-site") and (
            changes or headers.get("sec-fetch-mode") != "navigate"
        ):
            return 403, "another page may not use this server", {}
        address = (scope.get("client") or ("", 0))[0]
        if self._token and scope["path"] not in _OPEN:
            given = self._given(headers)
            entering = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
            asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0] if entering else ""
            if self._right(asked):
                secure = "; Secure" if self._secure else ""
                cookie = f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/{secure}"
                return 303, "", {"location": "/", "set-cookie": cookie}
            if not self._right(given):
                if (asked or given) and (wait := self._rates.wait(address)):
                    return 429, "too many wrong tokens", {"retry-after": str(wait)}
                reason = "a token is needed: open the address that 'vidseg serve' has printed"
                return 401, reason, {"www-authenticate": "Bearer"}
        if changes and (wait := self._rates.wait(address)):
            return 429, f"too many requests: wait {wait} s", {"retry-after": str(wait)}
        return 0, "", {}

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            urlsplit(f"//{host}").port  # noqa: B018 - raises for what is no port
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _given(self, headers: Headers) -> str:
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return value.strip()
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return ""
        return cookie.value if cookie is not None else ""

    def _right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str, more: dict[str, str]) -> None:
    """Answer without letting the request in."""
    body = json.dumps({"detail": reason}).encode() if reason else b""
    headers = {**SECURITY, "content-type": "application/json", "content-length": str(len(body)), **more}
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
    else:
        headers["connection"] = "close"  # what is left of a body is not read
    lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": f"{kind}.start", "status": status, "headers": lines})
    await send({"type": f"{kind}.body", "body": body})

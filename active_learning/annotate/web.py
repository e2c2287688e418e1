"""HTTP for a few people who trust each other, and nobody else.

The standard library's threading server: the page needs few addresses on the loopback device, some
tens of requests a second, no framework whose releases somebody would have to follow. What the
standard library leaves to its user is here: who may ask, how much, how slowly, and what a browser
may do with the answers. What is asked is `server.py`'s matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import ipaddress
import json
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATIENCE = 30.0
"""Seconds in which a request must have come whole, and after which an idle connection is closed."""

MOST_BODY, MOST_TARGET = 4096, 1024
"""Bytes of a request's body, and characters of its address."""

MOST_CONNECTIONS = 256
LEAST_TOKEN = 16

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Sent with everything: nothing comes from elsewhere or goes there, no page frames this one."""

JSON, TEXT, HTML = "application/json", "text/plain; charset=utf-8", "text/html; charset=utf-8"

_PLAIN_PATH = re.compile(r"/(?!/)[A-Za-z0-9/._-]*")
"""A path as ours are; of two slashes a browser would take the rest for another host."""


@dataclass(frozen=True)
class Reply:
    """What a request is answered with; ``keep`` lets the browser keep it for a day."""

    body: bytes
    kind: str = JSON
    status: int = 200
    keep: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A request that is not served; its text goes to the page."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


Respond = Callable[[str, str, str, Any], Reply]
"""``respond(method, path, query, body)``: the address as sent, never decoded; the body's JSON."""


def reply_json(value: Any, status: int = 200) -> Reply:
    """Return a reply that holds JSON."""
    return Reply(json.dumps(value, ensure_ascii=False).encode(), status=status)


def is_loopback(host: str) -> bool:
    """Tell whether nobody but this machine can reach a server at ``host``."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class Server(ThreadingHTTPServer):
    """The listening socket, a thread a connection.

    Args:
        host, port: where to listen; port 0 takes any that is free.
        token: what a browser must know, or empty.
        respond: answers the requests that are let through; raises `Refused`.

    Raises:
        OSError: the address cannot be listened at.
    """

    daemon_threads = True
    request_queue_size = 64
    # Whatever Python takes for it: a second server would get half of the answers.
    allow_reuse_port = False

    def __init__(self, host: str, port: int, token: str, respond: Respond) -> None:
        self.host, self.token, self.respond = host, token, respond
        self.ended = False
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._places = threading.Semaphore(MOST_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._at_work = 0
        self._counting = threading.Condition()
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """Bind without asking for the machine's full name, which may take a name server long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    @property
    def cookie_name(self) -> str:
        """Cookies are shared by all ports of a host: each has its own name."""
        return f"annotate_{self.server_port}"

    @property
    def cookie(self) -> str:
        """What a browser is given that knows the token; the same after a restart."""
        return hashlib.sha256(f"annotate\0{self.token}".encode()).hexdigest()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, as long as there are not too many."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection and give its place back."""
        self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.discard(request)
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over connections that break off; print every other fault."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    @contextlib.contextmanager
    def working(self) -> Any:
        """Count a request that is being answered; refuse it once the server has ended."""
        with self._counting:
            if self.ended:
                raise Refused(503, "the server has ended")
            self._at_work += 1
        try:
            yield
        finally:
            with self._counting:
                self._at_work -= 1
                self._counting.notify_all()

    def end(self) -> None:
        """Answer what has been asked and nothing more; close the connections that are kept open."""
        self.shutdown()
        with self._counting:
            self.ended = True
            self._counting.wait_for(lambda: not self._at_work, timeout=5)
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Timed(io.RawIOBase):
    """What comes in on a socket, up to a point in time: a drip of bytes does not put it off."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.deadline = connection, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """Lets a request through or refuses it."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "annotate", ""
    disable_nagle_algorithm = True
    wbufsize = 2**16

    def setup(self) -> None:
        """Read by the clock."""
        super().setup()
        self._incoming = _Timed(self.connection)
        self.rfile = io.BufferedReader(self._incoming)

    def handle_one_request(self) -> None:
        """Serve a request, if it comes in time."""
        self._incoming.deadline = time.monotonic() + PATIENCE
        super().handle_one_request()

    def do_GET(self) -> None:
        """Show something."""
        self._serve()

    def do_POST(self) -> None:
        """Write something down."""
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: names of people and pictures belong in no log."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what the base class cannot read."""
        self.close_connection = True
        self._send(_refusal(Refused(code, message or "bad request")))

    def _serve(self) -> None:
        try:
            with self.server.working():
                self._send(self._respond())
        except Refused as refused:
            # What was sent along may not have been read: the next request would begin in it.
            self.close_connection = True
            self._send(_refusal(refused))

    def _respond(self) -> Reply:
        self._require_host()
        body = self._body() if self.command == "POST" else None
        if len(self.path) > MOST_TARGET:
            raise Refused(414, "the address is too long")
        path, _, query = self.path.partition("?")
        if not _PLAIN_PATH.fullmatch(path):
            raise Refused(404, "no such page")
        if self.server.token:
            if self.command == "GET" and "token=" in query:
                return self._let_in(path, query)
            self._require_cookie()
        try:
            return self.server.respond(self.command, path, query, body)
        except Refused as refused:
            return _refusal(refused)

    def _require_host(self) -> None:
        """Refuse names that may be anyone's: a page elsewhere can have its name lead here."""
        if len(self.headers.get_all("Host", [])) != 1:
            raise Refused(400, "one Host is needed")
        try:
            name = urlsplit(f"//{self.headers['Host']}").hostname or ""
        except ValueError:
            name = ""
        known = {"localhost", self.server.host, socket.gethostname()}
        with contextlib.suppress(ValueError):
            known.add(str(ipaddress.ip_address(name)))
        if name not in {one.lower() for one in known}:
            raise Refused(421, "not known by that name: open it by its number, or as localhost")

    def _body(self) -> Any:
        """Return the JSON of a request that one of our own pages has sent."""
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        origin = self.headers.get("Origin")
        ours = origin in (None, *(f"{how}://{self.headers['Host']}" for how in ("http", "https")))
        if site != "same-origin" or not ours:
            raise Refused(403, "sent by another site")
        if self.headers.get_content_type() != JSON:
            raise Refused(415, "JSON is needed")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length) or "Transfer-Encoding" in self.headers:
            raise Refused(411, "a Content-Length is needed")
        if int(length) > MOST_BODY:
            raise Refused(413, f"more than {MOST_BODY} bytes")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise Refused(400, "not readable as JSON") from None

    def _require_cookie(self) -> None:
        pairs = (part.strip().partition("=") for part in self.headers.get("Cookie", "").split(";"))
        given = {name: value for name, _, value in pairs}.get(self.server.cookie_name, "")
        if not hmac.compare_digest(given.encode(), self.server.cookie.encode()):
            raise Refused(401, "open the address with ?token=... once")

    def _let_in(self, path: str, query: str) -> Reply:
        """Give the cookie for the token, and lead on to the address without it.

        By a page and not by a redirection: after that, a browser that came by a link from elsewhere
        would keep a strict cookie back.
        """
        given = parse_qs(query).get("token", [""])[0]
        if not hmac.compare_digest(given.encode(), self.server.token.encode()):
            raise Refused(401, "that is not the token")
        cookie = (
            f"{self.server.cookie_name}={self.server.cookie}; HttpOnly; SameSite=Strict; Path=/"
        )
        page = f'<!doctype html><meta http-equiv="refresh" content="0;url={path}">'
        return Reply(page.encode(), HTML, headers={"Set-Cookie": cookie})

    def _send(self, reply: Reply) -> None:
        self.connection.settimeout(PATIENCE)
        self.send_response(reply.status)
        cache = "private, max-age=86400" if reply.keep else "no-store"
        headers = {"Content-Type": reply.kind, "Content-Length": str(len(reply.body))}
        for name, value in {**HEADERS, **headers, "Cache-Control": cache, **reply.headers}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.body)
        self.wfile.flush()


def _refusal(refused: Refused) -> Reply:
    return reply_json({"error": str(refused)}, refused.status)

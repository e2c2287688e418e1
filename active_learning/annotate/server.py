"""The annotation server: which request means what, and how long it runs."""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from active_learning.annotate.desk import Desk, annotator_of
from active_learning.annotate.pictures import CROPS
from active_learning.annotate.web import (
    HTML,
    LEAST_TOKEN,
    Refused,
    Reply,
    Server,
    is_loopback,
    reply_json,
)
from active_learning.answers import Journal
from active_learning.people import GRACE
from config import Config
from utils.errors import UserError
from utils.locks import held
from utils.run_folder import RunFolder

HERE = Path(__file__).resolve().parent
HOST, PORT = "127.0.0.1", 8000
PORTS_TRIED = 50
EVERYWHERE = ("0.0.0.0", "::", "")

CSS, SCRIPT = "text/css; charset=utf-8", "text/javascript; charset=utf-8"

FILES = {
    "/": ("page.html", HTML),
    "/review": ("review.html", HTML),
    "/page.css": ("page.css", CSS),
    "/page.js": ("page.js", SCRIPT),
    "/review.js": ("review.js", SCRIPT),
    "/shared.js": ("shared.js", SCRIPT),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The files that are sent, by the address that is asked for: no other is opened for a request."""

_PICTURE = re.compile(r"/picture/([0-9]{1,9})")
_INSET = re.compile(r"/(inset|region)/([0-9]{1,9})/([0-9]{1,9})/([0-9]{1,9})/([0-9]{1,9})")


class Site:
    """What stands behind every address; see `Server`."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.posts: dict[str, Callable[[dict[str, Any]], Any]] = {
            "/api/next": lambda body: desk.state(annotator_of(body)),
            "/api/answer": self._answer,
            "/api/alive": self._alive,
            "/api/review": self._review,
            "/api/images": desk.images,
            "/api/image": desk.image,
        }

    def respond(self, method: str, path: str, query: str, body: Any) -> Reply:
        """Answer a request that was let through; its address is as sent, nothing in it decoded."""
        try:
            return self._respond(method, path, query, body)
        except UserError as error:  # a journal damaged by hand, a full disk
            raise Refused(500, str(error)) from None

    def _respond(self, method: str, path: str, query: str, body: Any) -> Reply:
        if method == "POST":
            if path not in self.posts:
                raise Refused(404, "no such page")
            if not isinstance(body, dict):
                raise Refused(400, "a JSON object is needed")
            return reply_json(self.posts[path](body))
        if path in FILES:
            name, kind = FILES[path]
            return Reply((HERE / name).read_bytes(), kind)
        if query.startswith("v=") and query != f"v={self.desk.version}":
            # Pictures may have come or gone since: their numbers would mean others.
            raise Refused(409, "the server was started anew")
        if found := _PICTURE.fullmatch(path):
            return self._picture(int(found[1]))
        if found := _INSET.fullmatch(path):
            return self._near(found[1], *map(int, found.groups()[1:]))
        raise Refused(404, "no such page")

    def _answer(self, body: dict[str, Any]) -> Any:
        fresh = self.desk.answer(body)
        return {"fresh": fresh} | _if_told(lambda: self.desk.state(annotator_of(body)))

    def _review(self, body: dict[str, Any]) -> Any:
        fresh = self.desk.answer(body, reviewer=True)
        return {"fresh": fresh} | _if_told(lambda: self.desk.image(body))

    def _alive(self, body: dict[str, Any]) -> Any:
        self.desk.queue.leases.renew(annotator_of(body))
        return {}

    def _picture(self, place: int) -> Reply:
        self._require_picture(place)
        found = self.desk.shown(place, lambda: self.desk.pictures.large(place))
        return Reply(found, "image/jpeg", keep=True)

    def _near(self, what: str, place: int, x: int, y: int, side: int) -> Reply:
        """Return the pixels around one, or the outline of its superpixel."""
        self._require_picture(place)
        pictures = self.desk.pictures
        width, height = self.desk.shown(place, lambda: pictures.size(place))
        if x >= width or y >= height or side not in CROPS:
            raise Refused(404, "no such pixel")
        if what == "region":
            self.desk.shown(place, lambda: pictures.pixels(place))
            # Its faults are those of the folder of superpixels: no reason to skip the picture.
            return reply_json(pictures.region(place, x, y))
        found = self.desk.shown(place, lambda: pictures.inset(place, x, y, side))
        return Reply(found, "image/png", keep=True)

    def _require_picture(self, place: int) -> None:
        if place >= len(self.desk.pictures.samples):
            raise Refused(404, "no such picture")


def _if_told(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what goes with a saved answer; where it cannot be told just now, the page asks."""
    try:
        return make()
    except (Refused, UserError):
        return {}


def serve_until(
    config: Config,
    done: Callable[[], bool],
    host: str = HOST,
    port: int | None = None,
    token: str | None = None,
    twice: float = 0.05,
    order: str = "rows",
    journal: Journal | None = None,
) -> None:
    """Let people answer a trial's questions; return soon after ``done()`` holds.

    Prints the address. On a signal that ends the stage, or Ctrl-C, the server ends first: what was
    answered is on the disk, and what has been sent is still taken.

    Args:
        config: the trial.
        done: asked about twice a second.
        host, port: where to listen; without a port `PORT`, or the next that is free.
        token: what a browser must know, needed unless only this machine can reach ``host``; None:
            the environment's ``GCO_TOKEN``.
        twice, order, journal: see `active_learning.annotate.desk.Desk`.

    Raises:
        UserError: the address cannot be had, a token is missing, another process serves the trial,
            or its images or questions cannot be read.
    """
    token = os.environ.get("GCO_TOKEN", "") if token is None else token
    _check_token(host, token)
    run = RunFolder(config.run_folder)
    with held(run.lock("annotate"), f"{run.root}, its annotation server,"):
        desk = Desk(config, twice, order, journal)
        server = _listen(host, port, token, Site(desk).respond)
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            _tell(server, desk.open_questions())
            _wait(done)
        finally:
            server.end()
            thread.join()


def _wait(done: Callable[[], bool]) -> None:
    """Wait until all is done, and has been for as long as something may be taken back."""
    since = None
    while True:
        since = (since or time.monotonic()) if done() else None
        if since is not None and time.monotonic() - since >= GRACE:
            return
        time.sleep(0.5)


def _check_token(host: str, token: str) -> None:
    if token and (len(token) < LEAST_TOKEN or not re.fullmatch("[A-Za-z0-9._~-]+", token)):
        raise UserError(
            f"--token or GCO_TOKEN: at least {LEAST_TOKEN} letters, digits and . _ ~ - are needed: "
            'make one by python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    if not token and not is_loopback(host):
        raise UserError(
            f"--host {host}: others could answer, and see the pictures: give --token, which they "
            "must know, or leave --host out and forward the port by ssh -L"
        )


def _listen(host: str, port: int | None, token: str, respond: Callable[..., Reply]) -> Server:
    """Open the socket at the port asked for, or at the first free one from `PORT` on."""
    ports = [port] if port is not None else range(PORT, PORT + PORTS_TRIED)
    for wanted in ports:
        try:
            server = Server(host, wanted, token, respond)
        except (OSError, OverflowError) as error:
            if getattr(error, "errno", 0) == errno.EADDRINUSE and port is None:
                continue
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"cannot listen at {host} port {wanted} ({reason}): choose another --port or --host"
            ) from None
        if port is None and wanted != PORT:
            print(f"port {PORT} is busy: taking {wanted}")
        return server
    raise UserError(f"no free port among {ports[0]} to {ports[-1]}: give one by --port")


def _tell(server: Server, count: int) -> None:
    # The address that stands for all of a machine's leads nowhere from elsewhere.
    host = socket.gethostname() if server.host in EVERYWHERE else server.host
    address = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/"
    waiting = f"{count} questions wait" if count != 1 else "1 question waits"
    if server.token:
        address += "?token=..."
        print("a browser needs the token once, in place of the dots", flush=True)
    print(f"{waiting} for answers at {address} (no answer is ever lost)", flush=True)

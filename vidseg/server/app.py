"""The server's routes: a page, pictures, videos, and a WebSocket for live frames."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from vidseg.errors import ControlError
from vidseg.server.backdrops import GALLERY, WEAKEST_BLUR, checked, draw
from vidseg.server.desk import Desk, RefusedError, Uploads
from vidseg.server.docs import docs_page
from vidseg.server.gate import Gate
from vidseg.server.jobs import Job, Jobs
from vidseg.server.limits import Limits, Rates
from vidseg.server.live import Live, Visitor
from vidseg.server.metrics import Metrics
from vidseg.server.processes import Network
from vidseg.server.webcams import Change, Webcams, act, running
from vidseg.sinks.pictures import encode_picture

_DESCRIPTION = """Other backgrounds behind the people in pictures, videos and live frames. Nothing is kept.

A background is `blur:STRENGTH` (10 to 100), a colour `#rrggbb`, `gallery:NAME`, or `upload:ID` of a picture that was
posted to `/v1/backgrounds`. For pictures there is `transparent`, too.

Live frames go through the WebSocket `/v1/live?background=…`: send a JPEG (of even size, at most 1280x720) with its
number before it, 4 bytes, big-endian; what comes back is the same, with the composite. Text messages are JSON: send
`{"background": "blur:60"}`; `{"type": "withheld"}` says that a frame is not shown, and why. What is late is dropped.

Frames also go by WebRTC: send `{"offer": SDP}` of one video, sent and received, through the same WebSocket, once
`hello` or `network` has said `"webrtc": true`. `{"type": "answer", "sdp": SDP}` comes back; where `sdp` is empty,
`reason` says why. `{"hangUp": true}` ends it, and so does the end of the WebSocket. Only the address at which you have
reached this server is offered, and your own candidates are not needed.

Where the server asks for a token, send it as `Authorization: Bearer TOKEN`.
"""
_PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_MEDIA = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_BUSY = {"Retry-After": "5"}
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


class Problem(BaseModel):
    """Why a request is refused."""

    detail: str


class Backdrop(BaseModel):
    """A background of the gallery, or an upload."""

    background: str
    title: str = ""
    picture: str = ""


class JobState(BaseModel):
    """How far a video is. ``result`` is where it can be had once ``state`` is ``done``."""

    id: str
    state: Literal["waiting", "running", "done", "failed"]
    reason: str
    video: dict[str, Any]
    progress: dict[str, Any]
    result: str | None


@dataclass(frozen=True, slots=True)
class Options:
    """How the server is set up.

    Attributes:
        token: That a visitor has to show; empty lets everybody on this machine in.
        hosts: Names by which the server may be called, beside addresses and localhost.
        background: That a live visitor begins with.
        network: What computes.
        limits: What is too much.
        secure: Whether it is reached by TLS.
        webcam: Whether visitors may control this user's ``vidseg webcam``. Only with a token: other users of this
            machine reach 127.0.0.1 as well.
    """

    token: str = ""
    hosts: tuple[str, ...] = ()
    background: str = "blur:60"
    network: Network = field(default_factory=Network)
    limits: Limits = field(default_factory=Limits)
    secure: bool = False
    webcam: bool = False

    def __post_init__(self) -> None:
        if self.webcam and not self.token:
            raise ValueError("a webcam is controlled with a token only")


@dataclass(frozen=True, slots=True, eq=False)
class _House:
    """All that a running server has."""

    options: Options
    metrics: Metrics
    live: Live
    desk: Desk
    uploads: Uploads
    jobs: Jobs
    rates: Rates


def create_app(options: Options | None = None) -> ASGIApp:
    """Return the server as an ASGI application with the gate before it. Its workers start and end with it."""
    from vidseg import __version__

    options = options or Options()
    metrics, rates = _metrics(), Rates(options.limits.rate, options.limits.burst)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        limits = options.limits
        live, desk = Live(options.network, limits, metrics), Desk(options.network, limits)
        house = _House(options, metrics, live, desk, Uploads(limits), Jobs(options.network, limits), rates)
        app.state.house = house
        _gauge(house)
        live.start()
        sweeper = asyncio.create_task(_sweep(house))
        try:
            yield
        finally:
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper
            await live.close()
            await desk.close()
            await house.jobs.close()

    app = FastAPI(
        title="vidseg",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    _add_routes(app)
    return Gate(app, token=options.token, hosts=options.hosts, rates=rates, metrics=metrics, secure=options.secure)


async def _sweep(house: _House) -> None:
    """Take away what is kept for too long."""
    while True:
        await asyncio.sleep(min(5.0, house.options.limits.kept))
        house.uploads.sweep()
        await house.desk.sweep()
        await house.jobs.sweep()


def _metrics() -> Metrics:
    metrics = Metrics()
    metrics.counter("vidseg_frames_total", "Live frames by what became of them.")
    metrics.counter("vidseg_pictures_total", "Pictures by status.")
    metrics.counter("vidseg_jobs_total", "Videos by status when they were sent.")
    metrics.counter("vidseg_refused_total", "Requests that did not get past the gate, by status.")
    metrics.counter("vidseg_worker_restarts_total", "Times that the live worker has ended unasked.")
    return metrics


def _gauge(house: _House) -> None:
    metrics, live = house.metrics, house.live
    metrics.gauge("vidseg_up", "Whether the live worker is ready.", lambda: live.ready)
    metrics.gauge("vidseg_visitors", "Live connections.", lambda: len(live.visitors))
    metrics.gauge("vidseg_peers", "Those of them whose frames go by WebRTC.", lambda: live.peers)
    metrics.gauge("vidseg_live_cpu_cores", "Cores that the live worker uses.", lambda: live.cpu)
    metrics.gauge("vidseg_uploads", "Backgrounds in memory.", lambda: len(house.uploads))
    metrics.gauge("vidseg_jobs_active", "Videos that wait or run.", lambda: house.jobs.active)
    metrics.gauge("vidseg_pictures_waiting", "Pictures that wait or are worked on.", lambda: house.desk.waiting)


def _house(request: Request | WebSocket) -> _House:
    house: _House = request.app.state.house
    return house


def _answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of refusals."""
    texts = {
        401: "The token is missing or wrong.",
        404: "There is none, or none any more.",
        408: "The body did not arrive in time.",
        409: "It is not done yet.",
        413: "Too many bytes, pixels or seconds.",
        415: "Not of a kind that is taken.",
        422: "It cannot be used: damaged, or a parameter is wrong.",
        429: "Too many requests from this address.",
        503: "Too many wait.",
    }
    return {status: {"model": Problem, "description": texts[status]} for status in (*statuses, 401)}


def _body(kinds: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": dict.fromkeys(kinds.split(), _BINARY)}}


BackgroundQuery = Annotated[
    str,
    Query(
        description="`blur:50`, `#rrggbb`, `gallery:NAME` or `upload:ID`; pictures also `transparent`.",
        json_schema_extra={"pattern": "^(blur(:(100|[1-9][0-9]))?|#[0-9a-f]{6}|gallery:[a-z]+|upload:.+|transparent)$"},
    ),
]


def _add_routes(app: FastAPI) -> None:
    for path in _PAGE:
        app.get(path, include_in_schema=False)(_page)

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        headers = _BUSY if error.status == 503 else None
        return JSONResponse({"detail": str(error)}, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def mistaken(request: Request, error: RequestValidationError) -> JSONResponse:
        texts = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
        return JSONResponse({"detail": "; ".join(texts)}, 422)

    app.get("/healthz", tags=["server"])(_health)
    app.get("/metrics", tags=["server"], response_class=PlainTextResponse, responses=_answers())(_show_metrics)
    app.get("/v1/backgrounds", tags=["backgrounds"], responses=_answers())(_list_backgrounds)
    app.get(
        "/v1/backgrounds/{name}.jpg",
        tags=["backgrounds"],
        response_class=Response,
        responses={**_answers(404), 200: {"content": {"image/jpeg": {}}}},
    )(_show_background)
    app.post(
        "/v1/backgrounds",
        tags=["backgrounds"],
        status_code=201,
        responses=_answers(408, 413, 415, 422, 429, 503),
        openapi_extra=_body("image/jpeg image/png image/webp"),
    )(_upload)
    app.delete("/v1/backgrounds/{id}", tags=["backgrounds"], status_code=204, responses=_answers(404, 429))(_forget)
    app.post(
        "/v1/image",
        tags=["pictures"],
        response_class=Response,
        responses={
            **_answers(408, 413, 415, 422, 429, 503),
            200: {"description": "The picture.", "content": {kind: {} for kind in _MEDIA.values()}},
        },
        openapi_extra=_body("image/jpeg image/png image/webp"),
    )(_picture)
    app.post(
        "/v1/jobs",
        tags=["videos"],
        status_code=201,
        responses=_answers(408, 413, 415, 422, 429, 503),
        openapi_extra=_body("video/mp4 video/quicktime video/webm video/x-matroska video/x-msvideo"),
    )(_add_job)
    app.get("/v1/jobs/{id}", tags=["videos"], responses=_answers(404))(_show_job)
    app.get(
        "/v1/jobs/{id}/events",
        tags=["videos"],
        response_class=StreamingResponse,
        responses={**_answers(404), 200: {"description": "Server-sent events.", "content": {"text/event-stream": {}}}},
    )(_watch_job)
    app.get(
        "/v1/jobs/{id}/result",
        tags=["videos"],
        response_class=FileResponse,
        responses={**_answers(404, 409), 200: {"description": "The video.", "content": {"video/mp4": {}}}},
    )(_result)
    app.delete("/v1/jobs/{id}", tags=["videos"], status_code=204, responses=_answers(404, 429))(_remove_job)
    app.get("/v1/webcams", tags=["webcams"], responses=_answers())(_list_webcams)
    app.post("/v1/webcams/{session}", tags=["webcams"], responses=_answers(404, 422, 429))(_change_webcam)
    app.websocket("/v1/live")(_live)


# --- page and server --------------------------------------------------------------------------------------------


def _page(request: Request) -> Response:
    name, kind = _PAGE[request.url.path]
    return Response(files(__package__).joinpath("page", name).read_bytes(), media_type=f"{kind}; charset=utf-8")


async def _health(request: Request) -> dict[str, str]:
    """Say that the server answers, and whether its network is ready."""
    return {"status": "ok", "network": "ready" if _house(request).live.ready else "starting"}


async def _show_metrics(request: Request) -> PlainTextResponse:
    """Return metrics for Prometheus."""
    return PlainTextResponse(_house(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


# --- backgrounds ------------------------------------------------------------------------------------------------


def _list_backgrounds() -> list[Backdrop]:
    """List the gallery."""
    return [
        Backdrop(background=f"gallery:{name}", title=title, picture=f"/v1/backgrounds/{name}.jpg")
        for name, (title, _) in GALLERY.items()
    ]


@lru_cache
def _thumbnail(name: str) -> bytes:
    return encode_picture(".jpg", draw(name)[::4, ::4])


def _show_background(name: str) -> Response:
    """Return a small picture of a background in the gallery."""
    if name not in GALLERY:
        raise HTTPException(404, "there is no such background")
    return Response(_thumbnail(name), media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


async def _upload(request: Request) -> Backdrop:
    """Take a picture as a background; it is kept in memory, and forgotten when it was not used for a while."""
    house = _house(request)
    data = await _read_picture(request, house.options.limits)
    return Backdrop(background=house.uploads.keep(await house.desk.ask({"do": "upload"}, data)))


async def _forget(request: Request, id: str) -> Response:
    """Forget an upload."""
    if not _house(request).uploads.forget(f"upload:{id}"):
        raise HTTPException(404, "there is no such upload")
    return Response(status_code=204)


def _chosen(house: _House, background: str, *, transparent: bool = False) -> tuple[str, bytes]:
    """Return a background's checked name, and its JPEG if it is an upload."""
    try:
        name = checked(background, transparent=transparent)
        return name, house.uploads.get(name)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


# --- pictures ---------------------------------------------------------------------------------------------------


async def _picture(
    request: Request,
    background: BackgroundQuery = "blur:50",
    format: Annotated[
        Literal["auto", "jpg", "png", "webp"], Query(description="`auto` is jpg, or png if cut out.")
    ] = "auto",
    fit: Annotated[Literal["cover", "contain", "stretch"], Query(description="Of the background.")] = "cover",
) -> Response:
    """Put another background behind the people in a picture; the body is the JPEG, PNG or WebP itself."""
    house = _house(request)
    name, upload = _chosen(house, background, transparent=True)
    if name == "transparent" and format == "jpg":
        raise HTTPException(422, "JPEG has no alpha: choose png or webp")
    suffix = format if format != "auto" else "png" if name == "transparent" else "jpg"
    try:
        data = await _read_picture(request, house.options.limits)
        header = {"do": "picture", "background": name, "format": suffix, "fit": fit}
        done = await house.desk.ask(header, data, upload)
    except (RefusedError, HTTPException) as error:
        status = error.status if isinstance(error, RefusedError) else error.status_code
        house.metrics.count("vidseg_pictures_total", {"status": str(status)})
        raise
    house.metrics.count("vidseg_pictures_total", {"status": "200"})
    return Response(done, media_type=_MEDIA[suffix])


async def _read_picture(request: Request, limits: Limits) -> bytes:
    return b"".join([chunk async for chunk in _chunks(request, limits.picture_bytes, limits.arrival)])


async def _chunks(request: Request, most: int, seconds: float) -> AsyncIterator[bytes]:
    """Yield a request's body as it comes.

    Raises:
        HTTPException: It has more than ``most`` bytes or none, or is not there after ``seconds``.
    """
    too_large = HTTPException(413, f"more than {most >> 20} MiB are not taken", {"Connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        await _swallow(request, 2 * most)
        raise too_large
    size = 0
    stream = aiter(request.stream())
    until = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            async with asyncio.timeout_at(until):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {seconds:g} s", {"Connection": "close"}) from None
        except ClientDisconnect:
            raise HTTPException(400, "the body ended early") from None
        if chunk is None:
            break
        size += len(chunk)
        if size > most:
            raise too_large
        yield chunk
    if not size:
        raise HTTPException(422, "the body is empty: send the file itself")


async def _swallow(request: Request, most: int) -> None:
    """Let a client send on for a little while: one that still sends would find a broken connection and no answer."""
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(5):
            async for chunk in request.stream():
                most -= len(chunk)
                if most < 0:
                    return


# --- videos -----------------------------------------------------------------------------------------------------


async def _add_job(request: Request, background: BackgroundQuery = "blur:50") -> JobState:
    """Take a video; the body is the file itself. The answer says where to watch and to fetch the result."""
    house = _house(request)
    name, upload = _chosen(house, background)
    limits = house.options.limits
    try:
        job = await house.jobs.add(_chunks(request, limits.video_bytes, 10 * limits.arrival), name, upload)
    except (RefusedError, HTTPException) as error:
        status = error.status if isinstance(error, RefusedError) else error.status_code
        house.metrics.count("vidseg_jobs_total", {"status": str(status)})
        raise
    house.metrics.count("vidseg_jobs_total", {"status": "201"})
    return _state(job)


def _job(request: Request, id: str) -> Job:
    job = _house(request).jobs.get(id)
    if job is None:
        raise HTTPException(404, "there is no such job, or not any more")
    return job


def _state(job: Job) -> JobState:
    result = f"/v1/jobs/{job.id}/result" if job.state == "done" else None
    return JobState(
        id=job.id, state=job.state, reason=job.reason, video=job.video, progress=job.progress, result=result
    )


async def _show_job(request: Request, id: str) -> JobState:
    """Say how far a video is."""
    return _state(_job(request, id))


async def _watch_job(request: Request, id: str) -> StreamingResponse:
    """Say how far a video is at every change until it is over, as server-sent events whose data is what GET returns."""
    job = _job(request, id)

    async def events() -> AsyncIterator[str]:
        while True:
            changed, over = job.changed, job.over
            yield f"event: {job.state}\ndata: {_state(job).model_dump_json()}\n\n"
            if over:
                return
            while not changed.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), 15)
                if not changed.is_set():
                    yield ": still there\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def _result(request: Request, id: str) -> FileResponse:
    """Return the new video, for as long as it is kept."""
    job = _job(request, id)
    if job.state != "done":
        raise HTTPException(409, "there is no result: it has failed" if job.over else "it is not done yet")
    return FileResponse(job.result, media_type="video/mp4", filename="vidseg.mp4")


async def _remove_job(request: Request, id: str) -> Response:
    """End a job and take away all of it."""
    await _house(request).jobs.remove(_job(request, id))
    return Response(status_code=204)


# --- webcams ----------------------------------------------------------------------------------------------------


async def _list_webcams(request: Request) -> Webcams:
    """List the running sessions of `vidseg webcam`; none, unless the server was started with `--webcam`."""
    controlled = _house(request).options.webcam
    return Webcams(controlled=controlled, sessions=await asyncio.to_thread(running) if controlled else [])


async def _change_webcam(request: Request, session: str, change: Change) -> dict[str, Any]:
    """Change a running session of `vidseg webcam`, and return what it says then."""
    if not _house(request).options.webcam:
        raise HTTPException(404, "no webcam is controlled from here: start the server with --webcam")
    try:
        return await asyncio.to_thread(act, session, change)
    except ControlError as error:
        missing = str(error).startswith(("there is no session", "no session"))
        raise HTTPException(404 if missing else 422, str(error)) from None


# --- live -------------------------------------------------------------------------------------------------------


async def _live(socket: WebSocket, background: str = "") -> None:
    """Take live frames, and send composites; see the description of the API."""
    house = _house(socket)
    await socket.accept()
    if len(house.live.visitors) >= house.options.limits.visitors:
        await socket.close(1013, "too many visitors: try again later")
        return
    try:
        name = checked(background or house.options.background)
        upload = house.uploads.get(name)
    except ValueError as error:
        await socket.close(1008, str(error)[:120])
        return
    visitor = house.live.enter(name, upload)
    network = "ready" if house.live.ready else "starting"
    visitor.say(type="hello", network=network, webrtc=house.live.webrtc, weakest_blur=WEAKEST_BLUR)
    tasks = [asyncio.create_task(part(socket, house, visitor)) for part in (_listen, _speak, _report)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        house.live.leave(visitor)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _listen(socket: WebSocket, house: _House, visitor: Visitor) -> None:
    """Take what a visitor sends until they leave, or send what nobody may."""
    most = house.options.limits.frame_bytes
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        data, text = message.get("bytes"), message.get("text")
        if data is not None:
            if not 4 < len(data) <= most:
                await socket.close(1009, f"a frame has from 5 to {most} bytes")
                return
            house.live.frame(visitor, int.from_bytes(data[:4], "big"), bytes(data[4:]))
        elif text is not None:
            _obey(socket, house, visitor, text)


def _obey(socket: WebSocket, house: _House, visitor: Visitor, text: str) -> None:
    """Do what a message asks for; what cannot be done changes nothing."""
    try:
        match json.loads(text):
            case {"background": str(background)}:
                name = checked(background)
                house.live.dress(visitor, name, house.uploads.get(name))
            case {"offer": str(offer)}:
                _negotiate(socket, house, visitor, offer)
            case {"hangUp": True}:
                house.live.hang_up(visitor)
            case _:
                raise ValueError('a message is {"background": "…"}, {"offer": "…"} or {"hangUp": true}')
    except (ValueError, RecursionError) as error:
        visitor.say(type="refused", reason="this is no JSON" if isinstance(error, json.JSONDecodeError) else str(error))


def _negotiate(socket: WebSocket, house: _House, visitor: Visitor, offer: str) -> None:
    """Pass on an offer of WebRTC, or answer why not."""
    address, _ = socket.scope.get("server") or ("", 0)
    client, _ = socket.scope.get("client") or ("", 0)
    reason = ""
    if len(offer) > house.options.limits.offer_bytes or len(re.findall("^m=", offer, re.M)) != 1:
        reason = f"an offer is of one video, and has {house.options.limits.offer_bytes} characters at most"
    elif wait := house.rates.wait(client):
        reason = f"too many requests: wait {wait} s"
    if reason:
        visitor.say(type="answer", sdp="", reason=reason)
    else:
        house.live.offer(visitor, offer, address)


async def _speak(socket: WebSocket, house: _House, visitor: Visitor) -> None:
    """Send what there is for a visitor."""
    with suppress(WebSocketDisconnect, RuntimeError):  # they have gone
        while True:
            answer = await visitor.next()
            if answer.message is not None:
                await socket.send_text(json.dumps(answer.message))
            else:
                await socket.send_bytes(answer.frame.to_bytes(4, "big") + answer.data)


async def _report(socket: WebSocket, house: _House, visitor: Visitor) -> None:
    """Tell a visitor every second how it goes, until they are silent or there for too long."""
    live, limits = house.live, house.options.limits
    while True:
        await asyncio.sleep(1)
        more: Mapping[str, Any] = {
            "network": "ready" if live.ready else "starting",
            "runtime": live.runtime,
            "cpu": round(live.cpu, 2),
            "visitors": len(live.visitors),
        }
        visitor.say(type="stats", **visitor.stats(), **more)
        now, code, reason = time.monotonic(), 0, ""
        if now - visitor.heard > limits.silence:
            code, reason = 1001, f"no frame for {limits.silence:g} s"
        if now - visitor.began > limits.session:
            code, reason = 1008, f"it may last {limits.session / 60:g} minutes; start again"
        if code:
            with suppress(TimeoutError):  # of one who does not listen any more
                async with asyncio.timeout(5):
                    await socket.close(code, reason)
            return

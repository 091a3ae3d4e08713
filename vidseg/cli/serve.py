"""``vidseg serve``: a page for the visitor's camera, and an API."""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidseg.cli import options as opt
from vidseg.cli import signals
from vidseg.cli.console import Console
from vidseg.errors import MissingDependencyError, SinkError

if TYPE_CHECKING:
    from vidseg.server.app import Options

EXAMPLES = opt.example(
    "vidseg serve",
    "vidseg serve --port 8080 --bg '#1e90ff'",
    "vidseg serve --webcam",
    "vidseg serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem",
    "curl --data-binary @me.jpg 'http://127.0.0.1:8008/v1/image?background=blur:60' -o out.jpg",
)
_REACH, _LIMITS = "Who may come in", "Limits"


def serve(
    host: Annotated[
        str,
        typer.Option("--host", metavar="ADDRESS", help="Beyond 127.0.0.1 a token is needed.", rich_help_panel=_REACH),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", metavar="PORT", help="0 takes a free one.", min=0, max=65535, rich_help_panel=_REACH),
    ] = 8008,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TOKEN",
            envvar="VIDSEG_TOKEN",
            help="What visitors have to show. Beyond this machine one is made up if none is given.",
            rich_help_panel=_REACH,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A name by which browsers may call this server, beside its addresses and localhost.",
            rich_help_panel=_REACH,
        ),
    ] = None,
    webcam: Annotated[
        bool,
        typer.Option(
            "--webcam",
            help="Also control your running 'vidseg webcam' from the page. On 127.0.0.1 only, and always with a token.",
            rich_help_panel=_REACH,
        ),
    ] = False,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            "--tls-cert",
            metavar="FILE",
            help="Certificate (PEM). Browsers give cameras to pages by TLS or from localhost only.",
            rich_help_panel=_REACH,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key (PEM).", rich_help_panel=_REACH)
    ] = None,
    bg: Annotated[
        str,
        typer.Option(
            "--bg", metavar="BACKGROUND", help="What visitors begin with: blur:STRENGTH, '#rrggbb' or gallery:NAME."
        ),
    ] = "blur:60",
    visitors: Annotated[
        int, typer.Option("--visitors", metavar="N", min=0, max=1000, help="Live at a time.", rich_help_panel=_LIMITS)
    ] = 8,
    max_minutes: Annotated[
        float,
        typer.Option(
            "--max-minutes", metavar="MINUTES", min=0.01, help="Of one live connection.", rich_help_panel=_LIMITS
        ),
    ] = 120.0,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", metavar="N", min=0, max=1000, help="Videos that wait or run at a time.", rich_help_panel=_LIMITS
        ),
    ] = 4,
    max_mib: Annotated[
        int,
        typer.Option("--max-mib", metavar="MIB", min=1, max=100_000, help="Of one video.", rich_help_panel=_LIMITS),
    ] = 500,
    max_seconds: Annotated[
        float,
        typer.Option("--max-seconds", metavar="SECONDS", min=1, help="Of one video.", rich_help_panel=_LIMITS),
    ] = 600.0,
    rate: Annotated[
        float,
        typer.Option(
            "--rate",
            metavar="N",
            min=0.01,
            max=1e6,
            help="Pictures, videos and connections a second that one address may send; 30 times as many at once.",
            rich_help_panel=_LIMITS,
        ),
    ] = 2.0,
    model: opt.ModelOption = "unet-s",
    runtime: opt.RuntimeOption = opt.Runtime.auto,
    threads: opt.ThreadsOption = None,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Serve a page for a browser's camera, and an API for pictures, videos and live frames.

    Everything is worked on here; nothing of a visitor is kept. Ctrl-C ends it. --json writes its address when it is up.
    """
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("give --tls-cert and --tls-key together")
    if token is not None and re.fullmatch(r"[\w-]{16,}", token, re.ASCII) is None:
        raise typer.BadParameter("give at least 16 letters, digits, - and _", param_hint="'--token'")
    if webcam and not _is_loopback(host):
        raise typer.BadParameter("a webcam is controlled from this machine only: leave --host as it is")
    console = Console(quiet, as_json, verbose)
    with console.outcome():
        try:
            import fastapi  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError("vidseg serve", "serve") from error
        from vidseg.engine import load_spec
        from vidseg.server.app import Options
        from vidseg.server.backdrops import checked
        from vidseg.server.limits import MEBI, Limits
        from vidseg.server.processes import Network

        try:
            background = checked(bg)
            if background.startswith("upload:"):
                raise ValueError("an upload is not there yet: give blur:STRENGTH, '#rrggbb' or gallery:NAME")
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="'--bg'") from None
        load_spec(model)
        if tls_cert is not None and tls_key is not None:
            _check_tls(tls_cert, tls_key)
        options = Options(
            token=token or ("" if _is_loopback(host) and not webcam else secrets.token_urlsafe(24)),
            hosts=tuple(allow_host or ()),
            background=background,
            network=Network(model, runtime.value, threads),
            limits=Limits(
                visitors=visitors,
                session=60 * max_minutes,
                jobs=jobs,
                video_bytes=max_mib * MEBI,
                video_seconds=max_seconds,
                rate=rate,
                burst=max(1, round(30 * rate)),
            ),
            secure=tls_cert is not None,
            webcam=webcam,
        )
        with _listening(host, port) as listener:
            _run(console, options, host, listener, tls_cert, tls_key)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_tls(cert: Path, key: Path) -> None:
    """Raise a SinkError unless a certificate and its key can be used."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except OSError as error:
        missing = [str(path) for path in (cert, key) if not path.is_file()]
        reason = f"there is no file {missing[0]}" if missing else getattr(error, "reason", None) or error.strerror
        raise SinkError(f"TLS cannot be had from {cert} and {key} ({reason}): give PEM files, no password") from error


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens.

    Raises:
        SinkError: The address cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        mend = "choose another --port" if "in use" in str(error) else "choose another --host or --port"
        raise SinkError(f"{host} port {port} cannot be listened on ({error.strerror or error}): {mend}") from error
    with listener:
        yield listener


def _run(
    console: Console, options: Options, host: str, listener: socket.socket, cert: Path | None, key: Path | None
) -> None:
    """Serve until somebody ends it.

    Raises:
        SystemExit: A signal ended it, in order.
    """
    import uvicorn

    from vidseg.server.app import create_app

    port = listener.getsockname()[1]
    shown = "localhost" if host in ("127.0.0.1", "::1") else socket.gethostname() if host in ("0.0.0.0", "::") else host
    if host in ("0.0.0.0", "::"):
        shown = _own_address() or shown
    shown = f"[{shown}]" if ":" in shown else shown
    query = f"?token={options.token}" if options.token else ""
    url = f"{'https' if cert else 'http'}://{shown}:{port}/{query}"

    class Server(uvicorn.Server):
        def stop(self) -> None:
            self.should_exit = True

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # they are heard by the command

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            console.note(f"open {url} in a browser; Ctrl-C ends it")
            if not _is_loopback(host) and cert is None:
                console.note("without TLS browsers give no camera to other machines: add --tls-cert and --tls-key")
            console.result({"url": url, "host": host, "port": port, "token": options.token})

    settings: dict[str, Any] = {"ssl_certfile": cert, "ssl_keyfile": key} if cert else {}
    config = uvicorn.Config(
        create_app(options),
        lifespan="on",
        log_config=None,
        access_log=False,  # addresses may hold a token
        server_header=False,
        proxy_headers=False,
        limit_concurrency=options.limits.connections,
        timeout_graceful_shutdown=2,
        ws="websockets-sansio",
        ws_max_size=options.limits.frame_bytes + 4,
        ws_max_queue=4,
        ws_per_message_deflate=False,  # a bomb could come in it
        **settings,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.INFO if console.verbose else logging.CRITICAL)
    server = Server(config)
    with signals.as_requests(server.stop):
        server.run([listener])
    if signals.heard():
        console.note("ended; nothing of a visitor was kept")
        raise SystemExit(signals.status())


def _own_address() -> str:
    """Return the address by which others reach this machine, or nothing. Nothing is sent for that."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of TEST-NET-1, RFC 5737; UDP connects without a packet
        except OSError:
            return ""
        address: str = probe.getsockname()[0]
        return address

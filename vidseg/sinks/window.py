"""A window that shows raw video from standard input, by SDL. ``preview`` runs it as a process of its own.

Apart, since macOS lets only a process's first thread have windows, since a display that goes away (X11, Wayland) ends
the process that had a window there, and since a window may keep its program waiting. SDL converts Y'CbCr on the
graphics card. It imports nothing of vidseg, so that it stands at once.

Arguments: width, height and the matrix. Standard input: I420 pictures, nothing between. Standard output: ``ok`` or
``error: WHY``, then each character that is typed, then ``closed`` if a person closed the window; one a line.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import warnings
from typing import Any

MATRICES = {"jpeg": 0, "bt601": 1, "bt709": 2}
"""SDL_YUV_CONVERSION_MODE: BT.601 full range, BT.601 and BT.709 limited."""
_BLIND = (b"offscreen", b"dummy", b"evdev")  # what SDL takes when there is nothing else
_SHARE = 0.7  # of the screen, at most
_HINTS = {
    "SDL_NO_SIGNAL_HANDLERS": "1",  # Ctrl-C is heard by who started this
    "SDL_VIDEO_ALLOW_SCREENSAVER": "1",
    "SDL_RENDER_SCALE_QUALITY": "linear",
    "SDL_APP_NAME": "vidseg",
    "SDL_VIDEO_X11_WMCLASS": "vidseg",
    "SDL_VIDEO_WAYLAND_WMCLASS": "vidseg",
}


def say(text: str) -> None:
    """Write a line for who started this."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class _Newest:
    """Reads pictures on a thread of its own and keeps the newest; ``wake`` is called after each, and at the end."""

    def __init__(self, length: int, wake: Any) -> None:
        self._lock = threading.Lock()
        self._spare, self._whole = bytearray(length), bytearray(length)
        self._new = False
        self.ended = False
        self._wake = wake

    def read(self) -> None:
        with open(0, "rb", buffering=0, closefd=False) as file:
            while not self.ended:
                view, filled = memoryview(self._spare), 0
                while filled < len(view) and not self.ended:
                    got = file.readinto(view[filled:])
                    self.ended = not got
                    filled += got
                if not self.ended:
                    with self._lock:
                        self._spare, self._whole, self._new = self._whole, self._spare, True
                self._wake()

    def show(self, upload: Any) -> bool:
        """Hand the newest picture to ``upload``, once; returns whether there was one."""
        with self._lock:  # the reader waits for us with its next but one, for less than a millisecond
            new, self._new = self._new, False
            if new:
                upload(self._whole)
            return new


def main(width: int, height: int, matrix: str) -> int:
    """Show pictures until the input ends or the window is closed; returns the exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PySDL2 says which library it has found
        import sdl2
    for name, value in _HINTS.items():
        os.environ.setdefault(name, value)
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sdl2.SDL_Init(sdl2.SDL_INIT_VIDEO):
        say(f"error: {sdl2.SDL_GetError().decode('utf-8', 'replace') or 'SDL finds no screen'}")
        return 1
    if "SDL_VIDEODRIVER" not in os.environ and (sdl2.SDL_GetCurrentVideoDriver() or b"") in _BLIND:
        say("error: there is no screen")
        return 1
    sdl2.SDL_SetYUVConversionMode(MATRICES[matrix])
    space = sdl2.SDL_Rect()
    sdl2.SDL_GetDisplayUsableBounds(0, space)
    scale = min(1.0, _SHARE * (space.w or width) / width, _SHARE * (space.h or height) / height)
    window = sdl2.SDL_CreateWindow(
        b"vidseg",
        sdl2.SDL_WINDOWPOS_CENTERED,
        sdl2.SDL_WINDOWPOS_CENTERED,
        max(round(width * scale), 1),
        max(round(height * scale), 1),
        sdl2.SDL_WINDOW_RESIZABLE | sdl2.SDL_WINDOW_ALLOW_HIGHDPI,
    )
    renderer = window and sdl2.SDL_CreateRenderer(window, -1, 0)
    texture = renderer and sdl2.SDL_CreateTexture(
        renderer, sdl2.SDL_PIXELFORMAT_IYUV, sdl2.SDL_TEXTUREACCESS_STREAMING, width, height
    )
    if not texture:
        say(f"error: {sdl2.SDL_GetError().decode('utf-8', 'replace') or 'SDL cannot draw here'}")
        return 1
    sdl2.SDL_RenderSetLogicalSize(renderer, width, height)  # what is left of the window stays black
    woken = sdl2.SDL_RegisterEvents(1)

    def wake() -> None:
        event = sdl2.SDL_Event()
        event.type = woken
        sdl2.SDL_PushEvent(event)

    def upload(data: bytearray) -> None:
        luma = ctypes.cast((ctypes.c_uint8 * len(data)).from_buffer(data), ctypes.POINTER(ctypes.c_uint8))
        address = ctypes.addressof(luma.contents)
        half = width // 2
        parts = [
            ctypes.cast(address + offset, ctypes.POINTER(ctypes.c_uint8))
            for offset in (0, width * height, width * height + half * (height // 2))
        ]
        sdl2.SDL_UpdateYUVTexture(texture, None, parts[0], width, parts[1], half, parts[2], half)

    newest = _Newest(width * height * 3 // 2, wake)
    threading.Thread(target=newest.read, daemon=True).start()
    sdl2.SDL_StartTextInput()
    say("ok")
    event = sdl2.SDL_Event()
    while sdl2.SDL_WaitEvent(event):
        draw = False
        while True:
            if event.type == sdl2.SDL_QUIT:
                say("closed")
                return 0
            if event.type == sdl2.SDL_TEXTINPUT:
                for character in event.text.text.decode("utf-8", "replace"):
                    say(character)
            elif event.type == sdl2.SDL_KEYDOWN and event.key.keysym.sym == sdl2.SDLK_ESCAPE:
                say("\x1b")
            elif event.type == sdl2.SDL_WINDOWEVENT:
                draw = True
            if not sdl2.SDL_PollEvent(event):
                break
        if newest.show(upload) or draw:
            sdl2.SDL_RenderClear(renderer)
            sdl2.SDL_RenderCopy(renderer, texture, None, None)
            sdl2.SDL_RenderPresent(renderer)
        if newest.ended:
            break
    sdl2.SDL_Quit()
    return 0


if __name__ == "__main__":
    try:
        status = main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    except (BrokenPipeError, KeyboardInterrupt):  # who started this has gone
        status = 0
    os._exit(status)  # the reader may still wait

"""The GStreamer element ``vidseg``. Loaded by GStreamer's own Python, through what ``vidseg gst install`` writes."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import gi
import numpy as np
import numpy.typing as npt

from vidseg.frame import Color, Frame, Matrix

gi.require_version("Gst", "1.0")
gi.require_version("GstBase", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GLib, GObject, Gst, GstBase, GstVideo  # noqa: E402

if TYPE_CHECKING:
    from vidseg.integrations.veil import Veil

if not Gst.is_initialized():
    Gst.init(None)  # GStreamer's loader has done so

_CAPS = Gst.Caps.from_string(
    "video/x-raw, format=(string){I420, NV12}, width=(int)[2, 16384], height=(int)[2, 16384], "
    "framerate=(fraction)[0/1, max]"
)
_NANOSECOND = Fraction(1, 10**9)
_MATRICES: dict[Any, Matrix] = {
    GstVideo.VideoColorMatrix.BT709: "bt709",
    GstVideo.VideoColorMatrix.BT601: "bt601",
    GstVideo.VideoColorMatrix.BT2020: "bt2020",
}
Bytes = npt.NDArray[np.uint8]


class Vidseg(GstBase.BaseTransform):  # type: ignore[misc]
    """Puts another background behind the people in I420 and NV12 video.

    Fails closed: a frame whose mask cannot be true becomes the background alone; a network that cannot be opened ends
    the stream with an error.
    """

    __gtype_name__ = "GstVidseg"
    __gstmetadata__ = (
        "vidseg",
        "Filter/Effect/Video",
        "Puts another background behind the people",
        "vidseg",
    )
    __gsttemplates__ = (
        Gst.PadTemplate.new("sink", Gst.PadDirection.SINK, Gst.PadPresence.ALWAYS, _CAPS),
        Gst.PadTemplate.new("src", Gst.PadDirection.SRC, Gst.PadPresence.ALWAYS, _CAPS),
    )

    def __init__(self) -> None:
        super().__init__()
        self._background, self._model, self._blur, self._subject = "blur", "unet-s", 50.0, "all"
        self._veil: Veil | None = None
        self._info: Any = None
        self._shown = ""
        self._color = Color()
        self._frames = 0

    @GObject.Property(type=str, default="blur", nick="Background")
    def background(self) -> str:
        """A picture, a video, a colour such as #1e90ff, blur or blur:STRENGTH; may change while it plays."""
        return self._background

    @background.setter  # type: ignore[no-redef]
    def background(self, value: str) -> None:
        self._background = value

    @GObject.Property(type=float, default=50.0, minimum=0.0, maximum=100.0, nick="Strength of the blur")
    def blur(self) -> float:
        """How far out of focus the room is where the background is blur; may change while it plays."""
        return self._blur

    @blur.setter  # type: ignore[no-redef]
    def blur(self, value: float) -> None:
        self._blur = value

    @GObject.Property(type=str, default="unet-s", nick="Model")
    def model(self) -> str:
        """A model's name, a folder with a manifest, or an ONNX file; taken over in the state READY."""
        return self._model

    @model.setter  # type: ignore[no-redef]
    def model(self, value: str) -> None:
        self._model = value

    @GObject.Property(type=str, default="all", nick="Subject")
    def subject(self) -> str:
        """Who is kept of several people: all, largest or center; taken over in the state READY."""
        return self._subject

    @subject.setter  # type: ignore[no-redef]
    def subject(self, value: str) -> None:
        self._subject = value

    # -- what GStreamer calls ------------------------------------------------------------------------------------

    def do_start(self) -> bool:
        """Open the background and look for the model."""
        try:
            from vidseg.integrations.veil import Veil

            self._shown, self._frames = self._named(), 0
            self._veil = Veil(self._shown, model=self._model, subject=self._subject, wait=True)  # type: ignore[arg-type]
        except Exception as error:
            self._fail(str(error), "gst-resource-error-quark", int(Gst.ResourceError.NOT_FOUND))
            return False
        return True

    def do_stop(self) -> bool:
        """Release everything."""
        veil, self._veil = self._veil, None
        if veil is not None:
            veil.close()
        return True

    def do_set_caps(self, incaps: Any, outcaps: Any) -> bool:
        """Remember what the frames are like."""
        self._info = GstVideo.VideoInfo.new_from_caps(incaps)
        if self._info is None:
            return False
        colors = self._info.colorimetry
        guess: Matrix = "bt709" if self._info.height >= 720 else "bt601"
        self._color = Color(
            _MATRICES.get(colors.matrix, guess), colors.range == GstVideo.VideoColorRange(1)
        )  # 1 is 0 to 255
        return True

    def do_transform_ip(self, buffer: Any) -> Any:
        """Write the result into ``buffer``, which is not passed on if that fails."""
        try:
            self._transform(buffer)
        except Exception as error:
            self._fail(str(error), "gst-stream-error-quark", int(Gst.StreamError.FAILED))
            return Gst.FlowReturn.ERROR
        return Gst.FlowReturn.OK

    # -- the work ------------------------------------------------------------------------------------------------

    def _transform(self, buffer: Any) -> None:
        veil = self._veil
        if veil is None or self._info is None:
            raise RuntimeError("the element was not started")
        wanted = self._named()
        if wanted != self._shown:
            self._shown = wanted
            try:
                veil.change(wanted)
            except Exception as error:  # what there was stays
                Gst.warning(f"vidseg: {error}")
        mapped = buffer.map(Gst.MapFlags.READ | Gst.MapFlags.WRITE)
        ok, info = mapped if isinstance(mapped, tuple) else (True, mapped)
        if not ok:
            raise RuntimeError("the frame cannot be written")
        try:
            data = np.frombuffer(info.data, np.uint8)
            planes = self._planes(data, GstVideo.buffer_get_video_meta(buffer))
            pts = buffer.pts if buffer.pts != Gst.CLOCK_TIME_NONE else self._frames * 33_333_333
            self._frames += 1
            if len(planes) == 2:
                y, pairs = planes[0], planes[1].reshape(planes[1].shape[0], -1, 2)
                chroma = [np.ascontiguousarray(pairs[..., 0]), np.ascontiguousarray(pairs[..., 1])]
            else:
                y, chroma = planes[0], planes[1:]
            done = veil(Frame((y, *chroma), pts, _NANOSECOND, self._color))  # type: ignore[arg-type]
            y[...] = done.planes[0]
            if len(planes) == 2:
                pairs[..., 0], pairs[..., 1] = done.planes[1], done.planes[2]
            else:
                for plane, made in zip(chroma, done.planes[1:], strict=True):
                    plane[...] = made
        finally:
            buffer.unmap(info)

    def _planes(self, data: Bytes, meta: Any) -> list[Bytes]:
        """Return the planes as views: two of NV12, of which the second holds pairs, three of I420."""
        info = self._info
        height, width = info.height, info.width
        small = (height + 1) // 2, (width + 1) // 2
        sizes = [(height, width)]
        sizes += [(small[0], 2 * small[1])] if info.finfo.format == GstVideo.VideoFormat.NV12 else [small, small]
        where = meta if meta is not None else info
        return [
            np.ndarray(size, np.uint8, data, offset=int(offset), strides=(int(stride), 1))
            for size, offset, stride in zip(sizes, where.offset, where.stride, strict=False)
        ]

    def _named(self) -> str:
        blur = self._background.strip().lower() == "blur"
        return f"blur:{self._blur:g}" if blur and math.isfinite(self._blur) else self._background

    def _fail(self, text: str, domain: str, code: int) -> None:
        self.message_full(
            *(Gst.MessageType.ERROR, GLib.quark_from_string(domain), code, text, None, "vidseg", "vidseg", 0)
        )


GObject.type_register(Vidseg)
__gstelementfactory__ = ("vidseg", Gst.Rank.NONE, Vidseg)

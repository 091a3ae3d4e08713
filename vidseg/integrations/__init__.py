"""vidseg inside other programs: aiortc, LiveKit, GStreamer. Each module imports its library; this one none."""

"""How long it takes to get going: `import vidseg`, `vidseg --version`, and `vidseg process` of a one-second clip.

    python benchmarks/start.py [--rounds 5]

The clip is the first second of the demo's sample; one run that is not counted warms numba's cache.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
from process import machine, measure


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    import vidseg

    sample = Path(vidseg.__file__).parent / "demo" / "sample.mp4"
    with tempfile.TemporaryDirectory() as name:
        clip = Path(name) / "clip.mp4"
        with av.open(str(sample)) as source, av.open(str(clip), "w") as sink:
            out = sink.add_stream("libx264", rate=Fraction(30), options={"preset": "veryfast"})
            stream = source.streams.video[0]
            out.width, out.height, out.pix_fmt = stream.width, stream.height, "yuv420p"
            for frame, _ in zip(source.decode(stream), range(30), strict=False):
                sink.mux(out.encode(frame))
            sink.mux(out.encode(None))
        process = ["process", str(clip), str(Path(name) / "out.mp4"), "--bg", "#1e90ff", "--overwrite", "--quiet"]
        commands = {
            "python -c pass": ["-c", "pass"],
            "import numpy": ["-c", "import numpy"],
            "import vidseg": ["-c", "import vidseg"],
            "vidseg --version": ["-m", "vidseg", "--version"],
            "vidseg process, 1 s of video": ["-m", "vidseg", *process],
        }
        print(f"{machine()}\nmedian of {args.rounds} runs\n\n| command | wall s |\n|---|---|")
        for label, arguments in commands.items():
            command = [sys.executable, *arguments]
            measure(command)
            walls = [measure(command)["wall"] for _ in range(args.rounds)]
            print(f"| {label} | {statistics.median(walls):.2f} |", flush=True)


if __name__ == "__main__":
    main()

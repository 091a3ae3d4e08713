"""One HTML page that holds everything it shows: pictures with layers to choose from, a legend and numbers."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import cv2
import numpy as np

from vidseg.explaining.drawing import AGAINST, FOR, colours, outline
from vidseg.explaining.explanation import Explanation
from vidseg.sinks.pictures import encode_picture

_WIDTH, _SEVERAL = 1280, 640
"""Widths at which one picture, and each of several, are carried."""
LAYERS = {
    "none": ("Picture", "The picture alone."),
    "confidence": (
        "Confidence",
        "How far the alpha is from undecided: bright is sure, dark is half person, half room.",
    ),
    "uncertainty": ("Uncertainty", "Unsure, or not the same in all looks: the larger of disagreement and entropy."),
    "disagreement": (
        "Disagreement",
        "How far the answers differ when the picture is mirrored, made smaller or larger, or moved a little.",
    ),
    "entropy": ("Entropy", "How undecided the mean answer is, in bits: soft edges such as hair are so by nature."),
    "evidence": ("What it hangs on", ""),
}
_EVIDENCE = {
    "occlusion": "What happens to {target} when a place is blurred away. Orange: the alpha falls, the decision rests "
    "on this place. Blue: it rises, this place speaks against it.",
    "gradcam": "Grad-CAM: how strongly each place of the coarsest features speaks for {target}.",
}


def page(title: str, facts: dict[str, str], shown: Sequence[Explanation]) -> str:
    """Return the page.

    It refers to nothing outside itself and forbids its browser to load anything. Layers are chosen by radio buttons
    and style sheets; the only script sets how strongly a layer covers the picture.

    Args:
        title: Of the picture or clip.
        facts: What else is to be known, by name: model, runtime.
        shown: One picture, or some of a clip.
    """
    several = len(shown) > 1
    first = shown[0].evidence
    figures = "".join(_figure(one, _SEVERAL if several else _WIDTH, several) for one in shown)
    layers = {name: (label, text) for name, (label, text) in LAYERS.items()}
    layers["evidence"] = (layers["evidence"][0], _EVIDENCE[first.method].format(target=first.target))
    choices, notes = "", ""
    for name, (label, text) in layers.items():
        checked = " checked" if name == "uncertainty" else ""
        choices += (
            f'<label><input type="radio" name="layer" value="{name}" id="layer-{name}"{checked}>'
            f"<span>{html.escape(label)}</span></label>"
        )
        notes += f'<p class="note" id="note-{name}">{html.escape(text)}{_scale(name, shown)}</p>'
    rules = "".join(
        f"body:has(#layer-{name}:checked) :is(.layer-{name},#note-{name}){{display:block}}" for name in layers
    )
    rows = "".join(f"<tr><th scope=row>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in facts.items())
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}, explained</title>\n<style>{_STYLE}{rules}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>{html.escape(title)}</h1>\n"
        f"<p class=lead>{html.escape(_lead(shown))}</p>\n"
        '<form class="bar" onsubmit="return false">\n<fieldset><legend>Layer over the picture</legend>'
        f'<div class="choices">{choices}</div></fieldset>\n'
        '<fieldset><legend>And</legend><div class="choices"><label><input type="checkbox" id="line" checked>'
        "<span>Outline of the alpha</span></label>"
        '<label class="range"><span>Strength of the layer</span>'
        '<input type="range" id="strength" min="0" max="100" value="85"></label></div></fieldset>\n</form>\n'
        f'<div class="notes" aria-live="polite">{notes}</div>\n'
        f'<div class="{"several" if several else "one"}">{figures}</div>\n'
        f"<h2>Numbers</h2>\n{_table(shown, several)}\n"
        f"<h2>How it was made</h2>\n<table class=facts><tbody>{rows}</tbody></table>\n</main>\n"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _lead(shown: Sequence[Explanation]) -> str:
    numbers = [one.numbers for one in shown]
    person, unsure = (100 * float(np.mean([n[name] for n in numbers])) for name in ("person", "uncertain"))
    where = "of the pictures shown" if len(shown) > 1 else "of the picture"
    return f"{person:.1f} % {where} is taken for a person; of {unsure:.1f} % the model is uncertain."


def _figure(one: Explanation, width: int, several: bool) -> str:
    height, full = one.rgb.shape[:2]
    size = (max(1, round(height * min(width, full) / full)), min(width, full))
    small = np.asarray(cv2.resize(one.rgb, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    numbers = one.numbers
    told = f"The picture. A person covers {100 * numbers['person']:.1f} % of it."
    parts = [_image(small, told, "picture")]
    for name, values in one.maps.items():
        parts.append(_image(colours(values, name), f"{one.caption(name)}.", f"layer layer-{name}"))
    parts.append(_image(outline(one.written, size), "", "line"))
    caption = f"<figcaption>{one.time:.2f} s</figcaption>" if several else ""
    shape = f"aspect-ratio:{size[1]}/{size[0]};--ratio:{size[1] / size[0]:.4f}"
    return f'<figure><div class="stack" style="{shape}">{"".join(parts)}</div>{caption}</figure>'


def _image(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], alt: str, kind: str) -> str:
    if pixels.shape[2] == 4:
        suffix, data = "png", encode_picture(".png", pixels[..., :3], pixels[..., 3])
    else:
        suffix, data = "jpeg", encode_picture(".jpg", pixels)
    text = base64.b64encode(data).decode("ascii")
    return f'<img class="{kind}" alt="{html.escape(alt)}" src="data:image/{suffix};base64,{text}">'


def _scale(name: str, shown: Sequence[Explanation]) -> str:
    """Return the legend of a layer."""
    if name == "none":
        return ""
    if name == "evidence":
        most = float(np.abs(shown[0].evidence.values).max())
        occlusion = shown[0].evidence.method == "occlusion"
        low, high = (f"−{most:.3f} of alpha", f"+{most:.3f}") if occlusion else ("0", "strongest")
        if len(shown) > 1 and occlusion:  # each picture has its own scale
            low, high = "speaks against", "strongest of each picture"
        stops = [(*AGAINST, 0.85), (0, 0, 0, 0.0), (*FOR, 0.85)] if occlusion else [(0, 0, 0, 0.0), (*FOR, 0.85)]
        colors = ",".join(f"rgb({r} {g} {b}/{a})" for r, g, b, a in stops)
    else:
        steps = colours(np.linspace(0, 1, 9, dtype=np.float32)[None], name)[0]
        low, high = "0", "1"
        colors = ",".join(f"rgb({r} {g} {b})" for r, g, b, _ in steps.tolist())
    return (
        f'<span class="scale"><span>{low}</span><span class="ramp" style="background:linear-gradient(90deg,{colors})">'
        f"</span><span>{high}</span></span>"
    )


_COLUMNS = {
    "person": ("Person", "share of the picture", 100, "%"),
    "uncertain": ("Uncertain", "share of the picture with an uncertainty above 0.5", 100, "%"),
    "disagreement": ("Disagreement", "mean, 0 to 1", 1, ""),
    "entropy": ("Entropy", "mean, bit", 1, ""),
    "strongest": ("Strongest evidence", "alpha lost without it", 1, ""),
}


def _table(shown: Sequence[Explanation], several: bool) -> str:
    head = "".join(f"<th scope=col>{label}<small>{text}</small></th>" for label, text, _, _ in _COLUMNS.values())
    rows = []
    for one in shown:
        numbers = one.numbers
        cells = "".join(
            f"<td>{scale * numbers[name]:.{1 if unit else 3}f}{'&nbsp;' + unit if unit else ''}</td>"
            for name, (_, _, scale, unit) in _COLUMNS.items()
        )
        rows.append(f"<tr>{f'<th scope=row>{one.time:.2f} s</th>' if several else ''}{cells}</tr>")
    corner = "<th scope=col>Time</th>" if several else ""
    body = f"<thead><tr>{corner}{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="Numbers"><table>{body}</table></div>'


_SCRIPT = (
    "const s=document.getElementById('strength'),r=document.documentElement.style;"
    "const f=()=>r.setProperty('--strength',s.value/100);s.addEventListener('input',f);f();"
)
_STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1f;--soft:#5b5b63;--ground:#fbfbfa;--card:#fff;--edge:#d9d9de;--mark:#9a4a00;
--strength:.85}
@media(prefers-color-scheme:dark){:root{--ink:#ececf0;--soft:#a6a6b0;--ground:#131316;--card:#1c1c20;--edge:#3a3a42;
--mark:#ffb066}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1320px;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:1.5rem;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2rem 0 .5rem}
.lead{color:var(--soft);margin:.25rem 0 1.25rem}
.bar{display:flex;flex-wrap:wrap;gap:.75rem 2rem}
fieldset{border:0;padding:0;margin:0;min-width:0}
legend{padding:0;font-size:.85rem;color:var(--soft)}
.choices{display:flex;flex-wrap:wrap;gap:.4rem;padding-top:.3rem;align-items:center}
label{display:inline-flex;gap:.45rem;align-items:center;border:1px solid var(--edge);border-radius:.5rem;
background:var(--card);padding:.3rem .7rem;cursor:pointer}
label:has(:checked){border-color:var(--mark);box-shadow:inset 0 0 0 1px var(--mark)}
label:has(:focus-visible){outline:3px solid var(--mark);outline-offset:2px}
input{accent-color:var(--mark);margin:0}
.range input{width:8rem}
.notes{min-height:3.2rem;margin:.75rem 0}
.note{display:none;margin:0;max-width:75ch}
.scale{display:flex;gap:.6rem;align-items:center;color:var(--soft);font-size:.85rem;margin-top:.35rem}
.ramp{width:min(18rem,50vw);height:.8rem;border-radius:.2rem;border:1px solid var(--edge)}
figure{margin:0}
.several{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr));gap:1rem}
.one .stack{width:min(100%,88vh*var(--ratio))}
.stack{position:relative;background:#000;border-radius:.5rem;overflow:hidden}
.stack img{position:absolute;inset:0;width:100%;height:100%}
.layer{display:none;opacity:var(--strength)}
body:not(:has(#layer-none:checked)) .picture{filter:grayscale(1) brightness(.6)}
.line{display:none}
body:has(#line:checked) .line{display:block}
figcaption{font-size:.85rem;color:var(--soft);padding-top:.25rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem 1.25rem .35rem 0;border-bottom:1px solid var(--edge);vertical-align:top}
th{font-weight:600}
thead small{display:block;font-weight:400;color:var(--soft)}
"""

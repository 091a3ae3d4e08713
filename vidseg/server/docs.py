"""The API's documentation as one page without a script, made from its OpenAPI description."""

from __future__ import annotations

from html import escape
from typing import Any

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>vidseg: API</title><link rel="stylesheet" href="/style.css"></head><body class="docs"><main>
<h1>API</h1><p>The same as a description for programs: <a href="/openapi.json">openapi.json</a>.
<a href="/">Back to the page</a></p>
"""


def docs_page(schema: dict[str, Any]) -> str:
    """Return HTML for an OpenAPI 3.1 ``schema``."""
    parts = [_HEAD, _paragraphs(schema["info"].get("description", ""))]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(_paragraphs(operation.get("description", operation.get("summary", ""))))
            rows = [
                (
                    f"<code>{escape(given['name'])}</code>",
                    escape(f"{given['in']}{', required' if given.get('required') else ''}"),
                    escape(str(given.get("description", ""))),
                )
                for given in operation.get("parameters", ())
            ]
            rows += [
                (f"<code>{escape(kind)}</code>", "body", "")
                for kind in operation.get("requestBody", {}).get("content", {})
            ]
            rows += [
                (f"<code>{escape(status)}</code>", "answer", escape(answer["description"]))
                for status, answer in sorted(operation["responses"].items())
            ]
            cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
            parts.append(f"<table>{cells}</table></section>")
    return "\n".join([*parts, "</main></body></html>"])


def _paragraphs(text: str) -> str:
    """Return text with empty lines between paragraphs as HTML; what stands in backquotes is code."""
    done = []
    for paragraph in text.strip().split("\n\n"):
        pieces = escape(" ".join(paragraph.split())).split("`")
        marked = "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))
        done.append(f"<p>{marked}</p>")
    return "".join(done)

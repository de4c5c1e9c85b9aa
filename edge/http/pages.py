"""Pages for people: the docs, made by a packaged Swagger UI over our own document, and what kinds of problems mean.

Nothing is loaded from elsewhere and nothing runs that is not a file of this edge: the content security policy says so.
"""

import functools
import html
import importlib.util
from pathlib import Path
from typing import Final

from aiohttp import web

from infra.plumbing.errors import NotFoundError
from infra.plumbing.http.problems import KINDS

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_STATIC: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
_START: Final = """window.addEventListener("load", () => {
  SwaggerUIBundle({
    url: "/openapi.json",
    dom_id: "#docs",
    deepLinking: true,
    validatorUrl: null,
    defaultModelsExpandDepth: 0,
  });
});
"""
_DOCS: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Atoll edge: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<main id="docs"><noscript>The document itself is at <a href="/openapi.json">/openapi.json</a>.</noscript></main>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_PROBLEM: Final = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><link rel="icon" href="data:,"></head>
<body><h1>{status} {title}</h1><p>{means}</p><p><a href="/docs">The API</a></p></body>
</html>
"""


def page_routes() -> list[web.RouteDef]:
    """`/docs` and the files that it loads."""
    return [web.get("/docs", docs), web.get("/docs/{file}", docs_file)]


async def docs(_request: web.Request) -> web.Response:
    """The docs page."""
    return _page(_DOCS.encode(), "text/html")


async def docs_file(request: web.Request) -> web.Response:
    """A file of the docs page.

    Raises:
        NotFoundError: there is no such file.
    """
    name = request.match_info["file"]
    if name == "start.js":
        return _page(_START.encode(), "text/javascript")
    if name not in _STATIC:
        raise NotFoundError("there is no such file of the docs.", fix="Begin at /docs.")
    return _page(_packaged(name), _STATIC[name])


async def problem_page(request: web.Request) -> web.Response:
    """What a kind of problem means.

    Raises:
        NotFoundError: there is no such kind.
    """
    kind = KINDS.get(request.match_info["kind"])
    if kind is None:
        raise NotFoundError("there is no such kind of problem.", fix="Take the `type` of a problem document.")
    text = _PROBLEM.format(title=html.escape(kind.title), status=kind.status, means=html.escape(kind.means))
    return _page(text.encode(), "text/html")


def _page(body: bytes, media: str) -> web.Response:
    return web.Response(
        body=body, content_type=media, charset="utf-8", headers={**SECURITY_HEADERS, "Cache-Control": "max-age=3600"}
    )


@functools.cache
def _packaged(name: str) -> bytes:
    # Found, not imported: the package's code is for other frameworks, only its files are wanted.
    found = importlib.util.find_spec("swagger_ui")
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(place) / "static" / name
        if path.is_file():
            return path.read_bytes()
    raise NotFoundError("the docs page's files are not installed.", fix="Install swagger-ui-py, or read /openapi.json.")

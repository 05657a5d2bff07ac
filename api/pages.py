"""The pages that show the API's description in a browser; what they load comes from this process alone."""

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

_FILES = "/docs/files"


def install(app: FastAPI) -> None:
    """Add `/docs` and `/redoc` to an application that has none."""
    assert app.openapi_url is not None, "else there is nothing to show"
    icon = f"{_FILES}/favicon.png"
    swagger = get_swagger_ui_html(
        openapi_url=app.openapi_url,
        title=app.title,
        swagger_js_url=f"{_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{_FILES}/swagger-ui.css",
        swagger_favicon_url=icon,
    )
    redoc = get_redoc_html(
        openapi_url=app.openapi_url,
        title=app.title,
        redoc_js_url=f"{_FILES}/redoc.standalone.js",
        redoc_favicon_url=icon,
        with_google_fonts=False,
    )

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> HTMLResponse:
        return swagger

    @app.get("/redoc", include_in_schema=False)
    async def show_redoc() -> HTMLResponse:
        return redoc

    # The package is these files, as their projects publish them.
    app.mount(_FILES, StaticFiles(packages=[("fastapi_offline", "static")]), name="docs-files")

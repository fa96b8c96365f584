"""A Jinja template of some thousand rows is rendered in a coroutine. The template's own line numbers blame nothing."""

import os
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from starlette.concurrency import run_in_threadpool

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", route="/invoice", remedy=("`def`|thread",)),),
    load=(Send("GET /invoice", times=10, at_once=1, pause=0.1), Send("GET /health", times=60, at_once=1, pause=0.05)),
    route="GET /invoice",
    also=("gc_pause",),
)

app = FastAPI()
setup_telemetry(app)
templates = Jinja2Templates(Path(__file__).with_name("templates"))
ITEMS = [{"name": f"item {number}", "price": number * 1.19, "number": number % 7} for number in range(60_000)]


def page(request: Request) -> HTMLResponse:
    items = ITEMS[:40] if os.environ.get("FIXED") else ITEMS
    return templates.TemplateResponse(request, "invoice.html", {"items": items})  # <- here


@app.get("/invoice")
async def invoice(request: Request) -> HTMLResponse:
    return page(request)


@app.get("/preview")
async def preview(request: Request) -> HTMLResponse:
    return await run_in_threadpool(page, request)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}

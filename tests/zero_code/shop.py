"""A service that knows nothing of this package: `otel-fastperf run uvicorn tests.zero_code.shop:app`."""

from fastapi import FastAPI

app = FastAPI()
mounted = FastAPI()
app.mount("/mounted", mounted)


@app.get("/items/{item_id}")
async def item(item_id: int) -> int:
    """No I/O."""
    return item_id


@mounted.get("/inner")
async def inner() -> str:
    """The endpoint of another app, which belongs to the first."""
    return "inner"


def create_app() -> FastAPI:
    """A factory."""
    return app

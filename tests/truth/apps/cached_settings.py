"""Healthy: `lru_cache` around settings and a hot computation, both of which mostly hit."""

import functools
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from pydantic import BaseModel

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("GET /tax/{n}", times=1200, at_once=4),),
    environment={"OTEL_FASTPERF_CACHE_INTERVAL": "1"},
    twin=False,
)


class Settings(BaseModel):
    rates: dict[str, float] = {"at": 0.2, "de": 0.19}


@functools.lru_cache
def get_settings() -> Settings:
    return Settings()


@functools.lru_cache(maxsize=128)
def tax(country: str, bucket: int) -> float:
    return get_settings().rates[country] * bucket


app = FastAPI()
setup_telemetry(app)


@app.get("/tax/{amount}")
async def taxed(amount: int, settings: Annotated[Settings, Depends(get_settings)]) -> dict[str, float]:
    return {country: tax(country, amount % 20) for country in settings.rates}

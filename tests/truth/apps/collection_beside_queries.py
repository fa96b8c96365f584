"""Primary keys are looked up in threads, while another route collects garbage by hand. The queries are innocent."""

import gc
import os
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("gc_pause", remedy=(r"gc\.collect",), wrong=("CPU limit", "deschedul")),),
    load=(
        Send("GET /rows/{n}", times=600, at_once=3, pause=0.005),
        Send("POST /admin/trim", times=5, at_once=1, pause=0.5, after=0.5),
    ),
    route="POST /admin/trim",
    largest="gc|handler",
    databases=("sqlite", "postgresql"),
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"], pool_size=10)
SessionLocal = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


Base.metadata.create_all(engine)
with SessionLocal.begin() as seeding:
    seeding.add_all(Row(text=f"row {number}") for number in range(700))

app = FastAPI()
setup_telemetry(app)
heap = [[number] for number in range(6_000_000)]


def get_db():
    with SessionLocal() as session:
        yield session


@app.get("/rows/{row_id}")
def row(row_id: int, db: Annotated[Session, Depends(get_db)]) -> dict[str, str]:
    found = db.get(Row, row_id)
    return {"text": found.text if found else ""}


@app.post("/admin/trim")
def trim() -> dict[str, int]:
    if os.environ.get("FIXED"):
        return {"freed": 0}
    return {"freed": gc.collect()}  # <- here

"""POST of a path has an N+1, GET of the same path has not: they share nothing but the path."""

import os
from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("n_plus_one", route="POST /api/recipes"),),
    load=(
        Send(
            "POST /api/recipes", times=20, at_once=2, body=["flour", "salt", "oil", "egg", "a", "b", "c", "d", "e", "f"]
        ),
        Send("GET /api/recipes", times=60, at_once=2, pause=0.01),
    ),
    route="POST /api/recipes",
    databases=("sqlite", "postgresql"),
    quick=True,
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"])
SessionLocal = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Ingredient(Base):
    __tablename__ = "ingredients"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)


Base.metadata.create_all(engine)
with SessionLocal.begin() as seeding:
    seeding.add_all(Ingredient(name=name) for name in ("flour", "salt", "oil", "egg", *"abcdef"))

app = FastAPI()
setup_telemetry(app)


def get_db() -> Iterator[Session]:
    with SessionLocal() as db:
        yield db


DB = Annotated[Session, Depends(get_db)]


@app.get("/api/recipes")
def recipes(db: DB) -> list[str]:
    return list(db.scalars(select(Ingredient.name).order_by(Ingredient.name).limit(5)))


@app.post("/api/recipes")
def create(ingredients: list[str], db: DB) -> dict[str, int]:
    if os.environ.get("FIXED"):
        found = list(db.scalars(select(Ingredient).where(Ingredient.name.in_(ingredients))))
        return {"ingredients": len(found)}
    found = []
    for name in ingredients:
        found.append(db.scalars(select(Ingredient).where(Ingredient.name == name)).one())  # <- here
    return {"ingredients": len(found)}

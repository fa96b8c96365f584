"""A constraint trigger that is deferred to COMMIT takes long. PostgreSQL."""

import os
from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("slow_commit", route="/bookings"),),
    load=(Send("POST /bookings", times=8, at_once=2),),
    largest="commit",
    databases=("postgresql",),
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"])
SessionLocal = sessionmaker(engine)
SECONDS = "0.001" if os.environ.get("FIXED") else "0.6"
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE bookings (id serial PRIMARY KEY, amount int)"))
    connection.execute(
        text(
            "CREATE FUNCTION balanced() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN PERFORM pg_sleep({SECONDS}); RETURN NULL; END $$"
        )
    )
    connection.execute(
        text(
            "CREATE CONSTRAINT TRIGGER balanced AFTER INSERT ON bookings DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION balanced()"
        )
    )

app = FastAPI()
setup_telemetry(app)


def get_db() -> Iterator[Session]:
    with SessionLocal() as session:
        yield session


@app.post("/bookings")
def book(session: Annotated[Session, Depends(get_db)]) -> dict[str, bool]:
    session.execute(text("INSERT INTO bookings (amount) VALUES (12)"))
    session.commit()  # <- here
    return {"booked": True}

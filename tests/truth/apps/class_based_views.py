"""Healthy: class-based views over a synchronous SQLite database, in a mounted sub-application."""

import os
from collections.abc import Iterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("GET /admin/users", times=60, at_once=3, pause=0.01),
        Send("POST /admin/users", times=60, at_once=2, pause=0.02, body={"name": "ann"}),
        Send("GET /admin/users/{n}", times=100, at_once=2, pause=0.01),
        Send("GET /health", times=60, at_once=1, pause=0.05),
    ),
    databases=("sqlite", "postgresql"),
    twin=False,
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"], pool_size=15)
SessionLocal = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


Base.metadata.create_all(engine)


def get_db() -> Iterator[Session]:
    db = SessionLocal()
    try:
        yield db
        db.commit()
    finally:
        db.close()


class UserView:
    def __init__(self, db: Annotated[Session, Depends(get_db)]) -> None:
        self.db = db

    @classmethod
    def routes(cls) -> APIRouter:
        router = APIRouter()
        for path, name, method in (
            ("/users", "list", "GET"),
            ("/users", "create", "POST"),
            ("/users/{user_id}", "read", "GET"),
        ):
            router.add_api_route(path, cls.endpoint(name), methods=[method])
        return router

    @classmethod
    def endpoint(cls, name: str) -> Any:
        if name == "list":

            def listed(view: Annotated[UserView, Depends()]) -> dict[str, Any]:
                total = view.db.scalar(select(func.count()).select_from(User))
                return {"total": total, "first": list(view.db.scalars(select(User.name).limit(10)))}

            return listed
        if name == "create":

            def created(user: dict[str, str], view: Annotated[UserView, Depends()]) -> dict[str, int]:
                added = User(name=user["name"])
                view.db.add(added)
                view.db.flush()
                return {"id": added.id}

            return created

        def read(user_id: int, view: Annotated[UserView, Depends()]) -> dict[str, str]:
            found = view.db.get(User, user_id)
            if found is None:
                raise HTTPException(404)
            return {"name": found.name}

        return read


admin = FastAPI()
admin.include_router(UserView.routes())
app = FastAPI()
app.mount("/admin", admin)
setup_telemetry(app)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}

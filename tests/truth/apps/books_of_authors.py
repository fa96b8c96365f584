"""Authors, their books, the reviews of these: two levels of lazy loading."""

import os
from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy import ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload, sessionmaker

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(
        Expected(
            "n_plus_one",
            remedy=(r"selectinload\(Author\.books\)",),
            wrong=(r"select\(Book\)",),
            message=(),
            line="both",
        ),
    ),
    load=(Send("GET /authors", times=12, at_once=2),),
    databases=("sqlite", "postgresql"),
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"])
SessionLocal = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    books: Mapped[list["Book"]] = relationship()


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"), index=True)
    reviews: Mapped[list["Review"]] = relationship()


class Review(Base):
    __tablename__ = "reviews"
    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int] = mapped_column(ForeignKey("books.id"), index=True)
    stars: Mapped[int]


Base.metadata.create_all(engine)
with SessionLocal.begin() as seeding:
    for _ in range(10):
        seeding.add(Author(books=[Book(reviews=[Review(stars=4), Review(stars=2)]) for _ in range(5)]))

app = FastAPI()
setup_telemetry(app)


def get_db() -> Iterator[Session]:
    with SessionLocal() as db:
        yield db


def stars(author: Author) -> int:
    total = 0
    for book in author.books:  # <- both
        for review in book.reviews:  # <- both
            total += review.stars
    return total


@app.get("/authors")
def authors(db: Annotated[Session, Depends(get_db)]) -> list[int]:
    query = select(Author)
    if os.environ.get("FIXED"):
        query = query.options(selectinload(Author.books).selectinload(Book.reviews))
    return [stars(author) for author in db.scalars(query)]  # <- both

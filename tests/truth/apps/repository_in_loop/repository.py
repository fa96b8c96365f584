from collections.abc import Sequence
from typing import Generic, TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

Model = TypeVar("Model")


class Repository(Generic[Model]):
    """The generic repository of all models."""

    model: type[Model]

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def get_one(self, key: int) -> Model:
        result = await self.session.execute(select(self.model).where(self.model.id == key))  # <- here
        return result.scalar_one()

    async def get_many(self, keys: Sequence[int]) -> list[Model]:
        result = await self.session.execute(select(self.model).where(self.model.id.in_(keys)))
        return list(result.scalars())

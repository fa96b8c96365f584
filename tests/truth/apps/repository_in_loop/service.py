import os

from repository_in_loop.models import Product
from repository_in_loop.repository import Repository


class Products(Repository[Product]):
    model = Product


class BasketService:
    def __init__(self, products: Products) -> None:
        self.products = products

    async def total(self, ids: list[int]) -> int:
        if os.environ.get("FIXED"):
            return sum(product.price for product in await self.products.get_many(ids))
        total = 0
        for product_id in ids:
            product = await self.products.get_one(product_id)  # <- here
            total += product.price
        return total

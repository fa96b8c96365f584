"""Bodies of requests and responses."""

from datetime import datetime

from pydantic import BaseModel, Field


class UserIn(BaseModel):
    """A new customer."""

    name: str = Field(min_length=1, max_length=80)
    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=120)


class UserOut(BaseModel):
    """A customer."""

    id: int
    name: str
    email: str


class ProductOut(BaseModel):
    """A product in a list."""

    id: int
    name: str
    price_cents: int
    stock: int


class ProductPage(ProductOut):
    """A product on its own page. `stars` is the mean of its reviews; None without reviews."""

    description: str
    stars: float | None
    reviews: int


class ItemIn(BaseModel):
    """A line of a new order."""

    product_id: int
    quantity: int = Field(ge=1, le=100)


class ItemOut(BaseModel):
    """A line of an order."""

    product_id: int
    quantity: int
    price_cents: int


class OrderIn(BaseModel):
    """A new order."""

    user_id: int
    items: list[ItemIn] = Field(min_length=1, max_length=20)


class OrderSummary(BaseModel):
    """An order in a list."""

    id: int
    user_id: int
    placed_at: datetime
    status: str


class OrderOut(OrderSummary):
    """An order with its lines."""

    items: list[ItemOut]


class DaySales(BaseModel):
    """Sales of one day."""

    day: str
    orders: int
    revenue_cents: int


class OrderVisits(BaseModel):
    """Number of page views of an order's customer."""

    order_id: int
    visits: int

"""Products and product search."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from sqlalchemy import func, select

from demo.database import Session
from demo.models import Product, Review
from demo.schemas import ProductOut, ProductPage

router = APIRouter(prefix="/products", tags=["products"])


@router.get("", response_model=list[ProductOut])
async def search(session: Session, q: str = "", limit: Annotated[int, Query(ge=1, le=100)] = 20) -> Sequence[Product]:
    """Find products with all words in their name or description."""
    found = select(Product).order_by(Product.name).limit(limit)
    for word in q.split():
        found = found.where(Product.name.icontains(word, autoescape=True) | Product.description.icontains(word))
    return (await session.scalars(found)).all()


@router.get("/{product_id}")
async def show_product(product_id: int, session: Session) -> ProductPage:
    """Show one product and its mean rating."""
    product = await session.get(Product, product_id)
    if product is None:
        raise HTTPException(404, "There is no such product.")
    opinion = select(func.avg(Review.stars), func.count()).where(Review.product_id == product_id)
    stars, reviews = (await session.execute(opinion)).one()
    return ProductPage(
        id=product.id,
        name=product.name,
        description=product.description,
        price_cents=product.price_cents,
        stock=product.stock,
        stars=None if stars is None else round(float(stars), 1),
        reviews=reviews,
    )

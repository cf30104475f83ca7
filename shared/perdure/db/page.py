"""One page of a list and where the next one begins. The key is plain; whoever hands it to clients signs it."""

from typing import Final, Generic, TypeVar

from msgspec import Struct
from sqlalchemy import ColumnElement, Select, and_, or_

MAX_LIMIT: Final = 200

Row = TypeVar("Row")
PageKey = tuple[str, str]
"""What the last row of a page was sorted by (an instant), and its id."""


class Page(Struct, Generic[Row], frozen=True):
    """Rows, and the key to ask for more with; None on the last page."""

    rows: tuple[Row, ...]
    next: PageKey | None = None


def keyset(
    query: Select[tuple[object, ...]],
    by: ColumnElement[str],
    row_id: ColumnElement[str],
    *,
    descending: bool,
    limit: int,
    after: PageKey | None,
) -> Select[tuple[object, ...]]:
    """`query` in the order of (`by`, `row_id`), behind `after`, with one row more than `limit` (1 to MAX_LIMIT) to see
    whether there is another page. Rows that appear or go meanwhile neither repeat nor hide others.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"limit {limit}, 1 to {MAX_LIMIT}")
    if after is not None:
        at, last = after
        beyond = by < at if descending else by > at
        tie = row_id < last if descending else row_id > last
        query = query.where(or_(beyond, and_(by == at, tie)))
    order = (by.desc(), row_id.desc()) if descending else (by.asc(), row_id.asc())
    return query.order_by(*order).limit(limit + 1)

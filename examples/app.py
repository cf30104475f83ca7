"""Workflows in Python: run them with `perdure up --app app` in this folder."""

from msgspec import Struct

from perdure import Context, workflow


class Order(Struct):
    """What is ordered, and for how much."""

    item: str
    amount: float


class Receipt(Struct):
    """What the customer gets."""

    item: str
    charged: bool
    reference: str


async def charge(order: Order, key: str) -> str:
    """Charge the customer; `key` lets the bank see that a repeated charge is the same one."""
    return f"paid {order.amount:.2f} for {order.item} ({key[:8]})"


@workflow
async def purchase(ctx: Context, order: Order) -> Receipt:
    """Charge an order, after somebody has approved it where it is dear."""
    if order.amount >= 100:
        answer = await ctx.ask(
            "approve", title=f"{order.item} for {order.amount:.2f}?", proposal=order, actions=["approve", "reject"]
        )
        if answer.action != "approve":
            return Receipt(item=order.item, charged=False, reference="refused")

    async def pay() -> str:
        return await charge(order, ctx.idempotency_key)

    return Receipt(item=order.item, charged=True, reference=await ctx.step("charge", pay))


@workflow
async def greeting(ctx: Context, name: str) -> str:
    """Greet somebody, in two steps."""
    words = await ctx.step("words", lambda: ["Hello", name])
    return str(await ctx.step("join", lambda: ", ".join(words) + "!"))

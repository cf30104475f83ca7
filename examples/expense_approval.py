"""Expenses that two people approve: `perdure up --app expense_approval` in this folder.

perdure run expense --input '{"employee": "ann", "purpose": "Train to Berlin", "amount": 480}'
perdure inbox
"""

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, Field

from perdure import Action, Answer, AskAgain, Context, OnTimeout, Quorum, workflow

SMALL = 50
BUDGETS = {"travel": 1_000, "equipment": 300}


class Expense(BaseModel):
    """What somebody wants back."""

    employee: str
    purpose: str
    amount: float = Field(gt=0)


class Booking(BaseModel):
    """The form that an approver fills in. Votes add up when they say the same: words belong into the comment."""

    cost_centre: Literal["travel", "equipment"]


class Outcome(BaseModel):
    """What became of it."""

    status: Literal["paid", "refused", "nobody decided"]
    amount: float = 0
    cost_centre: str | None = None
    approved_by: list[str] = []
    reason: str | None = None


async def budget_of(cost_centre: str) -> float:
    """What is left to spend. A real one asks the ledger."""
    return BUDGETS[cost_centre]


async def transfer(expense: Expense, key: str) -> str:
    """Pay. `key` lets the bank see that a repeated transfer is the same one."""
    return f"transfer {key[:8]} of {expense.amount:.2f} to {expense.employee}"


@workflow
async def expense(ctx: Context, expense: Expense) -> Outcome:
    """Pay small expenses at once, others when two of finance agree; leads are asked too when that takes hours."""
    if expense.amount <= SMALL:
        await ctx.step("pay", transfer, expense, ctx.uuid())
        return Outcome(status="paid", amount=expense.amount)

    async def within_budget(answer: Answer[Booking]) -> None:
        """Right in form is not right in fact: the budget is looked up when the answer is there."""
        if answer.action != "approve":
            return
        left = await ctx.step("budget", budget_of, answer.payload.cost_centre)
        if answer.proposal["amount"] > left:
            raise AskAgain(
                f"{answer.payload.cost_centre} has {left:.2f} left", {"/payload/cost_centre": "cannot bear this amount"}
            )

    answer = await ctx.ask(
        "approve",
        title=f"Expense of {expense.employee}: {expense.amount:.2f}",
        message=f"**{expense.purpose}**. You may lower the amount.",
        proposal=expense,
        editable=["/amount"],
        schema=Booking,
        actions=[
            Action(id="approve", label="Approve", style="primary"),
            Action(id="reject", label="Reject", style="danger", requires=("comment",)),
        ],
        assignees=["group:finance"],
        forbid_self=True,
        quorum=Quorum(n=2, veto=("reject",)),
        reminders=[timedelta(hours=1)],
        escalations={timedelta(hours=4): ["group:leads"]},
        expires_in=timedelta(days=3),
        on_timeout=OnTimeout(do="branch"),
        check=within_budget,
    )
    if answer.action is None:
        return Outcome(status="nobody decided", reason=answer.cause)
    if answer.action == "reject":
        return Outcome(status="refused", reason=answer.comment)
    approved = Expense.model_validate(answer.proposal)

    async def pay() -> str:
        answer.require(approved)  # what two people have seen is what is paid, and nothing else
        return await transfer(approved, ctx.idempotency_key)

    await ctx.step("pay", pay)
    return Outcome(
        status="paid",
        amount=approved.amount,
        cost_centre=answer.payload.cost_centre,
        approved_by=[vote.by for vote in answer.votes],
    )

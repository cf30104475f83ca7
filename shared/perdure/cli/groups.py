"""Commands on groups: who belongs to which."""

from typing import Annotated

from cyclopts import App, Parameter

from perdure.cli.lists import print_pages
from perdure.cli.session import Common, Exit
from perdure.client import Group, Page

app = App(name="groups", help="Groups of people, which requests may name.")
COMMON = Common()

Name = Annotated[str, Parameter(help="The group's name.")]
Who = Annotated[str, Parameter(help="user:NAME or service:NAME; just NAME is a user.")]


@app.command(name="list")
async def list_(*, limit: Annotated[int, Parameter(help="At most so many.")] = 50, common: Common = COMMON) -> int:
    """List groups with their members."""
    async with common.client() as client:

        async def fetch(limit: int, cursor: str | None) -> Page[Group]:
            return await client.groups(limit=limit, cursor=cursor)

        return await print_pages(common.printer(), limit, fetch, _line)


@app.command
async def add(group: Name, who: Who, /, *, common: Common = COMMON) -> int:
    """Put somebody into a group; it is made when it is new."""
    principal = _principal(who)
    async with common.client() as client:
        await client.add_to_group(group, principal)
    common.printer().result({"group": group, "added": principal}, lambda: f"{group}  + {principal}")
    return Exit.DONE


@app.command
async def rm(group: Name, who: Who, /, *, common: Common = COMMON) -> int:
    """Take somebody out of a group."""
    principal = _principal(who)
    async with common.client() as client:
        await client.remove_from_group(group, principal)
    common.printer().result({"group": group, "removed": principal}, lambda: f"{group}  - {principal}")
    return Exit.DONE


def _principal(who: str) -> str:
    return who if ":" in who else f"user:{who}"


def _line(group: Group) -> str:
    return f"{group.name:<20} {', '.join(member.principal for member in group.members) or '(nobody)'}"

"""The page behind an answer link: small, without script, without anything from elsewhere, kept nowhere."""

import base64
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from typing import Final

from aiohttp import web

from perdure.core import event as ev
from perdure.errors import Fault
from perdure_gateway.causes import CAUSES
from perdure_gateway.linkform import Sent, drawn, text_of
from perdure_gateway.markdown import escaped, rendered
from perdure_gateway.problems import KINDS, Problem

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:40rem;padding:0 1rem;color:#1a1a1a;"
    "background:#fff}pre,textarea,input:not([type=checkbox]),select{width:100%;box-sizing:border-box;font:inherit}"
    "pre{background:#f4f4f4;padding:.75rem;overflow:auto;white-space:pre-wrap}small{display:block;color:#555}"
    ".one{display:block}.wrong{color:#a00}button{font:inherit;padding:.5rem 1rem;margin:0 .5rem .5rem 0}"
    ".primary{font-weight:bold}.danger{color:#a00}"
)
_HASH: Final = base64.b64encode(sha256(_STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Robots-Tag": "noindex, nofollow",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}
_PAGE: Final = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
    "<style>{style}</style></head>\n<body><main><h1>{title}</h1>\n{body}\n</main></body></html>\n"
)


def asking(asked: ev.Request, sent: Sent, faults: Sequence[Fault] = (), status: int = 200) -> web.Response:
    """The request, a form, and a button for each action; `faults`: what was wrong with what was `sent`."""
    parts = [rendered(asked.message) if asked.message else ""]
    if asked.proposal_digest is not None:
        parts.append(f"<h2>Proposal</h2>\n{_value(asked.proposal)}")
    if faults:
        listed = "".join(f"<li><code>{escaped(f.pointer or '')}</code> {escaped(f.detail)}</li>" for f in faults)
        parts.append(f'<div role="alert"><p class="wrong">This does not fit yet.</p><ul>{listed}</ul></div>')
    digest = asked.proposal_digest
    hidden = "" if digest is None else f'<input type="hidden" name="proposal_digest" value="{escape(digest)}">'
    buttons = "".join(_button(action) for action in asked.actions)
    parts.append(f'<form method="post">{hidden}\n{drawn(asked, sent, faults)}\n<p>{buttons}</p></form>')
    if asked.expires_at is not None:
        parts.append(f"<small>Open until {escaped(asked.expires_at)}.</small>")
    return _page(asked.title, "\n".join(parts), status)


def thanks(asked: ev.Request, action: str, *, counted: bool) -> web.Response:
    """What somebody sees whose answer is in the log; `counted`: as a vote, more are needed."""
    label = next((a.label or a.id for a in asked.actions if a.id == action), action)
    more = " Others are asked as well; the request is decided when enough agree." if counted else ""
    return _page(asked.title, f"<p>Your answer is recorded: <strong>{escaped(label)}</strong>.{more}</p>", 200)


def refusing(problem: Problem) -> web.Response:
    """A problem, for people."""
    kind, why = KINDS[problem.code], CAUSES[problem.code]
    body = f"<p>{escaped(why.cause)}</p><p>{escaped(why.cure)}</p><small><code>{problem.code}</code></small>"
    response = _page(kind.title, body, kind.status)
    response.headers.update(problem.headers)
    return response


def _button(action: ev.Action) -> str:
    style = f' class="{action.style}"' if action.style else ""
    return f'<button name="action" value="{escape(action.id)}"{style}>{escaped(action.label or action.id)}</button>'


def _value(value: object) -> str:
    return f"<pre>{escaped(text_of(value))}</pre>"


def _page(title: str, body: str, status: int) -> web.Response:
    text = _PAGE.format(title=escaped(title), style=_STYLE, body=body)
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8", headers=HEADERS)

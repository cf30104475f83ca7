"""What the page of each problem says: where it comes from, and what to do about it."""

from collections.abc import Mapping
from typing import Final, NamedTuple


class Cause(NamedTuple):
    """Two sentences or so each."""

    cause: str
    cure: str


CAUSES: Final[Mapping[str, Cause]] = {
    "invalid-json": Cause(
        "The body is not strict JSON: a name twice in one object, NaN or Infinity, an integer beyond 64 bits, U+0000, "
        "half of a surrogate pair, nesting deeper than 64, a byte order mark, or something after the value.",
        "Send one JSON value in UTF-8; `position` says at which character it went wrong.",
    ),
    "invalid-parameter": Cause(
        "A query parameter is unknown, comes twice or has a value that it cannot have.",
        "`errors` names it. Unknown ones are refused because a typo must not widen a list.",
    ),
    "invalid-header": Cause("A header has a form that it cannot have.", "`errors` names the header and its form."),
    "invalid-cursor": Cause(
        "The cursor was changed, or belongs to another list, other filters or another principal.",
        "Begin again without a cursor, and send the same filters with each page.",
    ),
    "invalid-offset": Cause(
        "Last-Event-ID, `after` or `starting_after` is no offset, or two of them differ.",
        "Send `0`, `now`, or the `id` of a frame as it came.",
    ),
    "invalid-request": Cause("The bytes are no HTTP request that is taken here.", "Use an ordinary HTTP/1.1 client."),
    "unsupported-api": Cause(
        "`Perdure-Api` asks for a version that this gateway does not serve.", "Leave the header out, or send `1`."
    ),
    "unauthenticated": Cause(
        "There is no key, or it is unknown, revoked or expired.", "Send `Authorization: Bearer pdr_…` with a good key."
    ),
    "forbidden": Cause(
        "The key is good but its scopes do not reach so far.", "Use a key with the scope that the route asks for."
    ),
    "not-assignee": Cause(
        "The request names people or groups, and you are none of them.", "Ask one of them, or whoever may delegate it."
    ),
    "self-answer-forbidden": Cause(
        "The request says that whoever it was made for may not decide it.", "Somebody else has to answer it."
    ),
    "not-found": Cause(
        "There is no such thing, it was deleted, or it is not yours to see: the three look alike on purpose.",
        "Check the id and the tenant of the key.",
    ),
    "method-not-allowed": Cause("The path is right, the method is not.", "`Allow` names those that it knows."),
    "not-acceptable": Cause(
        "None of the types in `Accept` can be made.", "`detail` names those that can; leave `Accept` out for JSON."
    ),
    "body-too-slow": Cause("The body did not arrive within 15 seconds.", "Send it without pauses; ask again."),
    "already-answered": Cause(
        "Somebody else's answer was first; the first one counts.",
        "`answered_by`, `answered_at` and `action` say whose.",
    ),
    "already-voted": Cause(
        "A vote is final, and you gave another one. A link and whoever gave it out are one voter.",
        "`voted_at` and `action` say which it was, where it was yours; wait for the others.",
    ),
    "proposal-changed": Cause(
        "The proposal is no longer the one that you saw.", "Read the request again, and answer with its new digest."
    ),
    "request-withdrawn": Cause(
        "The job no longer asks: the request was withdrawn, or the job has ended.", "There is nothing to answer."
    ),
    "comments-full": Cause(
        "The request has as many comments as one may have (`limit`).",
        "Say it elsewhere, or in the comment of an answer; answers are still taken.",
    ),
    "job-full": Cause(
        "The job's log has nearly reached its bound; what is left is kept for its end.",
        "Say it elsewhere; answers are still taken.",
    ),
    "job-terminal": Cause("The job has ended; nothing follows its end.", "Submit a new job."),
    "job-not-terminal": Cause("The job has not ended.", "Cancel it first, or wait for its end."),
    "job-not-retrying": Cause(
        "The job waits for no back-off and no matching code.", "`job_status` says what it does instead."
    ),
    "key-ended": Cause("The key is revoked or expired.", "Make a new key and use it from now on."),
    "thread-busy": Cause(
        "A run of this AG-UI thread goes on, and asks nothing that the caller may answer.",
        "Post its `run_id` to attach to it, or wait for its end; another thread is free.",
    ),
    "name-taken": Cause("Another flow has that name.", "Change that one with PUT, or choose another name."),
    "in-use": Cause(
        "Jobs of the flow have not ended.", "Wait for them, or send `?cancel_jobs=true`, which cancels them first."
    ),
    "flow-read-only": Cause(
        "A Python flow is what its runners register.",
        "Deploy the runners with the changed code; a new version follows.",
    ),
    "offset-expired": Cause(
        "The events behind the offset are kept nowhere any more.",
        "`snapshot` is the job as it ended; `?gap=snapshot` gives a stream that begins with it.",
    ),
    "offset-ahead": Cause(
        "The log is shorter than the offset: it is another job's, or a backup was restored.",
        "Begin at `latest`, or at 0.",
    ),
    "request-expired": Cause("The time to answer is over.", "`outcome` says what became of the request."),
    "link-used": Cause(
        "Somebody has answered by this link; it works once.", "Sending the same answer again is no error."
    ),
    "link-void": Cause(
        "The link has expired or was revoked, or the request has changed or was decided since.",
        "`reason` says which where it is told; ask for a new link if an answer is still wanted.",
    ),
    "job-deleted": Cause("The job that this idempotency key has made was deleted.", "Use a new key for a new job."),
    "precondition-failed": Cause(
        "Somebody has changed it since you read it.", "Read it again, and send its new tag in If-Match."
    ),
    "too-large": Cause("A body, a value or an event is beyond its bound.", "`errors` names the value and the bound."),
    "unsupported-media-type": Cause(
        "The body is not plain `application/json`, or it is compressed.",
        "Send `Content-Type: application/json` once, in UTF-8, without Content-Encoding.",
    ),
    "invalid-body": Cause("A member is missing, unknown or has the wrong form.", "`errors` points at each."),
    "invalid-input": Cause("The input is not what the flow takes.", "`errors` points at what differs from its schema."),
    "invalid-answer": Cause(
        "The action is none of the request's, or what comes with it does not fit.", "`errors` points at what is wrong."
    ),
    "invalid-flow": Cause("The definition is no flow that can run.", "`errors` points into the definition."),
    "invalid-schema": Cause("A schema is not one that can be checked safely.", "`errors` points at the part."),
    "idempotency-key-reused": Cause(
        "The key was sent before, with something else.", "Use a new key for each wish; repeat a wish unchanged."
    ),
    "precondition-required": Cause(
        "A change needs to say what it changes.", "Send If-Match with the tag that you have read."
    ),
    "rate-limited": Cause(
        "The key sends more than it may in a minute, or the address came with too many bad keys.",
        "Wait for `Retry-After`; `RateLimit` says what is left.",
    ),
    "too-many-streams": Cause(
        "The key has too many streams and waits open.", "Close some; one stream follows one job."
    ),
    "internal": Cause("The fault is ours.", "The log has it under `http_request_id`; please report it."),
    "unavailable": Cause(
        "The broker or the database cannot be reached, or has no room.", "Wait for `Retry-After` and ask again."
    ),
    "draining": Cause("This gateway is about to stop.", "Ask again: another one answers."),
    "outcome-unknown": Cause(
        "The append got no answer, and the log could not be read: it may have been done.",
        "Ask again in the same way, with the same key: it is done once.",
    ),
}

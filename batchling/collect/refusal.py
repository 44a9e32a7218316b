"""What a no is about, in the codes and words of servers: of a whole batch, of a creation, or of one row.

Codes decide before words, and words only where they are definite. Sources: the error pages of OpenAI, Azure, Groq, DeepSeek,
Moonshot and DashScope; litellm#23901, #16075 (budget and key errors of its proxy); openai-cookbook#2812 (refusals in rows).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum


class About(StrEnum):
    """What a refusal is about. Each has one behaviour (`batchling.collect.failure.FailureKind`)."""

    LINE = "line"  # these requests
    FILE = "file"  # the input file is not there (yet)
    SIZE = "size"  # the batch is too large, in bytes or requests
    RATE = "rate"  # too many calls
    TOKENS = "tokens"  # too many prompt tokens wait
    REQUESTS = "requests"  # too many requests wait
    BATCHES = "batches"  # too many batches wait
    QUOTA = "quota"  # quota, billing, budget, a closed account
    KEY = "key"
    MODEL = "model"
    PERMISSION = "permission"
    ADDRESS = "address"  # what answers is not the server that the key is for
    OTHER = "other"


ACCOUNT = frozenset({About.QUOTA, About.KEY, About.MODEL, About.PERMISSION, About.ADDRESS})
"""Nothing about the request: every other one would hear the same until a person acts."""

QUEUES = frozenset({About.TOKENS, About.REQUESTS, About.BATCHES})
"""There is room again when something of ours has ended."""


def _codes(about: About, text: str) -> dict[str, About]:
    return dict.fromkeys(text.split(), about)


_CODES: dict[str, About] = {
    **_codes(
        About.QUOTA,
        "insufficient_quota billing_hard_limit_reached billing_limit_exceeded billing_limit_reached billing_not_active "
        "billing_error account_deactivated accountdeactivated account_suspended access_terminated organization_restricted "
        "organization_deactivated insufficient_balance insufficientbalance insufficient_credits insufficient_funds "
        "insufficient_user_quota exceeded_current_quota_error quota_exceeded_billing payment_required budget_exceeded "
        "budgetexceedederror budget_limit_exceeded spend_limit_exceeded spending_limit_reached credit_limit_reached "
        "arrearage accountoverdueerror out_of_credits no_credits",
    ),
    **_codes(
        About.KEY,
        "invalid_api_key incorrect_api_key authentication_error autherror auth_error invalid_authentication "
        "invalid_authentication_error authenticationerror unauthorized unauthenticated invalidapikey token_not_found_in_db "
        "expired_key expired_api_key api_key_expired key_expired revoked_api_key missing_api_key invalid_token "
        "invalidsubscriptionkey mismatched_organization mismatched_project invalid_organization invalid_project",
    ),
    **_codes(
        About.MODEL,
        "model_not_found deploymentnotfound deployment_not_found model_not_available model_not_exist "
        "model_not_found_error model_deprecated model_decommissioned modelnotfound modelnotopen operationnotsupported",
    ),
    **_codes(
        About.PERMISSION,
        "insufficient_permissions permission_denied permissiondenied permission_error permissiondeniederror access_denied "
        "accessdenied forbidden unsupported_country_region_territory key_model_access_denied team_model_access_denied "
        "project_model_access_denied",
    ),
    **_codes(About.ADDRESS, "redirected certificate_refused"),  # our own words: there is nothing safe to send to
    **_codes(About.TOKENS, "token_limit_exceeded enqueued_token_limit_exceeded enqueued_token_limit_reached"),
    **_codes(
        About.REQUESTS,
        "request_limit_exceeded requests_limit_exceeded enqueued_request_limit enqueued_request_limit_exceeded "
        "enqueued_request_limit_reached enqueued_requests_limit_exceeded batch_request_limit_exceeded request_queue_full "
        "too_many_enqueued_requests",
    ),
    **_codes(
        About.BATCHES,
        "batch_limit_exceeded concurrent_batch_limit_exceeded too_many_batches too_many_concurrent_batches "
        "max_active_batches_exceeded active_batch_limit_exceeded job_limit_exceeded too_many_active_jobs",
    ),
    **_codes(
        About.SIZE,
        "file_too_large filetoolarge file_size_exceeded request_too_large payload_too_large content_too_large "
        "requestentitytoolarge batch_too_large batch_size_exceeded max_batch_size_exceeded too_many_tasks "
        "too_many_requests_in_batch too_many_lines too_many_rows max_requests_exceeded request_count_exceeded "
        "max_file_size_exceeded too_many_embedding_inputs",
    ),
    **_codes(
        About.RATE,
        "rate_limit_exceeded rate_limit_error rate_limit_reached ratelimitreached ratelimiterror rate_limited "
        "too_many_requests toomanyrequests resource_exhausted throttling throttling_error throttlingexception "
        "requests_limit slow_down batch_rate_limit_exceeded",
    ),
}

_GENERIC = frozenset(
    {
        "",
        "none",
        "null",
        "error",
        "invalid_request",
        "invalid_request_error",
        "invalidrequest",
        "invalidrequesterror",
        "badrequest",
        "bad_request",
        "badrequesterror",
        "bad_request_error",
        "api_error",
        "apierror",
        "internalservererror",
        "internal_server_error",
        "internal_error",
        "server_error",
        "upstream_error",
        "upstream_refused",
        "provider_error",
        "openai_error",
        "openaiexception",
        "notfounderror",
        "not_found",
        "requests",
        "tokens",
    }
)
"""Codes that say nothing in particular: the words decide."""


def _words(*parts: str) -> re.Pattern[str]:
    return re.compile("|".join(parts), re.IGNORECASE)


_BUSY = r"(?:enqueued|queued|pending|waiting|outstanding|in[- ]flight)"
_TOKEN_QUEUE = _words(
    r"token_limit_exceeded",
    rf"{_BUSY}[ _-](?:\w+[ _-])?tokens?\b",
    rf"tokens? (?:that )?(?:are |is |were )?(?:already )?(?:{_BUSY}|in (?:the|its|your) queue)",
    r"\btoken queue\b",
)
_REQUEST_QUEUE = _words(
    rf"{_BUSY}[ _-](?:(?!token)\w+[ _-])?requests?\b",
    rf"requests? (?:that )?(?:are |is |were )?(?:already )?(?:{_BUSY}|in (?:the|its|your) queue)",
    r"\brequest queue\b",
)
_BATCH_QUEUE = _words(
    r"too many (?:concurrent|active|running|pending|queued|enqueued|in[- ]progress|open|unfinished) (?:batch(?:es)?|(?:batch )?jobs)",
    r"(?:concurrent|active|running|pending|queued|enqueued|in[- ]progress|open) (?:batch(?:es)?|batch jobs?|jobs?)\b[^.]{0,40}\b(?:limit|maximum|exceed)",
    r"(?:limit|maximum|max)\b[^.]{0,40}\b(?:concurrent|active|running|pending|queued|enqueued|in[- ]progress) (?:batch(?:es)?|batch jobs?|jobs?)\b",
)
_SIZE = _words(
    r"\b(?:entity|payload|request body|request|content|input file|file|batch|upload)(?: size)? (?:is |was )?too (?:large|big|long)\b",
    r"\btoo many (?:requests|lines|tasks|rows|records|entries|prompts|inputs|embedding inputs) (?:in|for) (?:the|this|a|one|your|each) (?:\w+ )?(?:batch|file|job)",
    r"\b(?:file|batch|body|payload|upload|content)(?:[ _]size)?\b[^.]{0,50}\b(?:exceeds?|exceeded|above|over|larger than|bigger than)\b[^.]{0,60}\b(?:limit|maximum|max|size|bytes|[kmg]i?b)\b",
    r"\bmax(?:imum)?(?: allowed)? (?:file|batch|body|upload|content|payload)[ _]?(?:size|length)\b",
    r"\b(?:more than|at most|maximum of|limit of|up to|exceeds?)\b[^.]{0,40}\b(?:requests|lines|tasks|rows|prompts|inputs)\b[^.]{0,12}\b(?:per|in (?:a|one|the|this|each)) (?:\w+ )?(?:batch|file|job)",
    r"\b(?:batch|file|job) (?:\S+ )?(?:contains|has)\b[^.]{0,40}\b(?:requests|lines|tasks|rows|tokens)\b[^.]{0,80}\b(?:limit|maximum|max|at most|only|allowed)\b",
)
_RATE = _words(
    r"\brate[ _-]?limit",
    r"\bratelimit",
    r"too many requests",
    r"\brequests? (?:/|per) ?(?:min|minute|hour|day|second)",
    r"\b[rt]pm\b",
    r"error code: 429",
    r"slow down",
    r"\bthrottl",
)
_RETRY = _words(
    r"\b(?:retry|try again|try once more|again) (?:in|after) (?:about )?\d",
    r"\bper (?:minute|second|hour|day)\b",
    r"\b[rt]p[md]\b",
    r"retrydelay",
)
_QUOTA = _words(
    r"exceeded your (?:current|monthly|assigned) (?:quota|budget|spend)",
    r"billing[ _](?:hard|soft)?[ _]?limit",
    r"check your (?:plan|billing)",
    r"billing (?:is )?(?:not active|inactive|disabled)",
    r"(?:account|organi[sz]ation|project)\b[^.]{0,30}\b(?:is|has been|was|not)\b[^.]{0,20}\b(?:deactivated|suspended|disabled|terminated|restricted|blocked|closed|not active|in good standing)",
    r"\baccount is not active\b",
    r"insufficient (?:quota|balance|credits?|funds)",
    r"credit balance is too low",
    r"\b(?:out of|no|not enough|run out of) credits?\b",
    r"(?:credits?|balance|quota)\b[^.]{0,24}\b(?:exhausted|depleted|used up|run out|overdue|is not enough)",
    r"budget has been exceeded",
    r"exceeded?budget",
    r"payment required",
    r"(?:account|payment)\b[^.]{0,20}\boverdue",
    r"insufficient_quota",
    r"billing_hard_limit",
)
_KEY = _words(
    r"(?:incorrect|invalid|wrong|expired|revoked|missing|unknown) (?:\w+ )?(?:api|subscription|virtual)[ _-]?key",
    r"\bapi[ _-]?key\b[^.]{0,40}\b(?:is|was|has been|not)\b[^.]{0,20}\b(?:invalid|incorrect|expired|revoked|disabled|not valid|deleted|valid)\b",
    r"didn'?t provide an api key",
    r"no api key",
    r"invalid_api_key",
    r"authentication ?error",
    r"error code: 401",
    r"invalid proxy server token",
)
_MODEL = _words(
    r"\b(?:model|deployment)\b[^.\n]{0,80}\b(?:does not exist|doesn'?t exist|not found|is not available|not exist|has been (?:deprecated|decommissioned|retired)|is not deployed)",
    r"\b(?:no such|unknown) (?:model|deployment)\b",
    r"\b(?:model|deployment) (?:for this resource )?does not exist\b",
    r"do(?:es)? not have access to (?:the )?model",
)
_PERMISSION = _words(
    r"insufficient permissions",
    r"permission[ _]denied",
    r"do(?:es)? not have (?:the )?(?:permission|required scope)",
    r"missing scopes",
    r"country, region, or territory not supported",
)
_FILE = _words(
    r"\bfile\b.{0,80}\b(?:not (?:yet )?(?:ready|processed|available|found|uploaded|exist)|does not exist|doesn'?t exist|(?:still|being) (?:being )?process\w*|pending)",
    r"no such file",
    r"file_not_found",
)
_INVALID = _words(
    r"invalid_request_error",
    r"bad ?request ?error",
    r"\b(?:error|status)(?: code)?[:= ]+4(?:00|04|05|13|15|22)\b",
    r"\bcontext[ _](?:length|window)",
    r"\b(?:prompt|input|request|message) is too long",
    r"\bvalidation ?error",
    r"\bunprocessable",
    r"\binvalid (?:value|type|parameter|argument|prompt|schema|image|json|input|messages?|response_format|url)\b",
    r"\b(?:unsupported|unrecognized|unknown) (?:value|parameter|argument|request argument)",
    r"\bmissing required (?:parameter|field|argument)",
)
_PASSING = _words(
    r"\brate[ _-]?limit",
    r"\bratelimit",
    r"too many requests",
    r"overloaded",
    r"temporar(?:y|ily)",
    r"try again",
    r"tim(?:ed|e)[ _-]?out",
    r"\binternal (?:server )?error",
    r"internalservererror",
    r"service ?unavailable",
    r"bad ?gateway",
    r"connection ?(?:error|reset|refused|aborted)",
    r"\b(?:error|status)(?: code)?[:= ]+(?:408|409|429|5\d\d)\b",
)
_WRAPPED = re.compile(r"\b(?:error|status)(?: code)?[:= ]+([45]\d\d)\b", re.IGNORECASE)
_HEAD = 600
"""Characters of a message that are looked at: what follows may be the row's own text."""


def about(codes: Iterable[str | None], message: str | None, status: int | None = None) -> About:
    """What a refusal of a batch, a creation or an upload is about.

    Args:
        codes: the provider's code and type, the most particular first; any case.
        message: the provider's words.
        status: the HTTP status, where there was one.
    """
    lower = [(code or "").lower() for code in codes]
    known = [_CODES[code] for code in lower if code in _CODES]
    code = known[0] if known else None
    text = (message or "")[:_HEAD]
    if code in ACCOUNT and not (code is About.QUOTA and status == 429 and _RETRY.search(text)):
        return code
    if code in (None, About.RATE, About.TOKENS, About.REQUESTS, About.BATCHES):
        # The words tell requests from tokens where the code is the same for both.
        for found, pattern in (
            (About.REQUESTS, _REQUEST_QUEUE),
            (About.TOKENS, _TOKEN_QUEUE),
            (About.BATCHES, _BATCH_QUEUE),
        ):
            if pattern.search(text):
                return found
    if code is About.REQUESTS and _RETRY.search(text):
        return About.RATE
    if code is not None and code is not About.RATE and code not in ACCOUNT:
        return code
    account = _account_words(lower, text, status)
    if account is not None:
        return account
    if status == 413 or _SIZE.search(text):
        return About.SIZE
    if code is About.RATE or status == 429 or (_RATE.search(text) and not _FILE.search(text)):
        return About.RATE
    if _FILE.search(text):
        return About.FILE
    return {401: About.KEY, 402: About.QUOTA, 403: About.PERMISSION, 404: About.MODEL}.get(status or 0, About.OTHER)


def account_refusal(status: int | None, codes: Iterable[str | None], message: str | None) -> About | None:
    """What of the account is refused, where a row's error is about the account and not about the row; None: it is not.

    Args:
        status: the row's status.
        codes: its codes and types; message: its words.
    """
    lower = [(code or "").lower() for code in codes]
    text = (message or "")[:_HEAD]
    if status is not None and 200 <= status < 300 and not lower:
        return None
    for code in lower:
        found = _CODES.get(code)
        if found in ACCOUNT:
            if found is About.PERMISSION and code in ("forbidden", "access_denied", "accessdenied"):
                continue  # a firewall says the same of a row's text
            passing = found is About.QUOTA and status == 429 and _RETRY.search(text)
            return None if passing else found
    if status == 401 or "401" in lower:
        return About.KEY
    if status == 402 or "402" in lower:
        return About.QUOTA
    return _account_words(lower, text, status)


def _account_words(codes: list[str], text: str, status: int | None) -> About | None:
    if any(code not in _GENERIC and code not in _CODES and not code.isdigit() for code in codes):
        return None  # a particular code about something else: its words may quote the row
    if _QUOTA.search(text) and not _RETRY.search(text):
        return About.QUOTA
    if _KEY.search(text):
        return About.KEY
    if _MODEL.search(text):
        return About.MODEL
    return About.PERMISSION if _PERMISSION.search(text) else None


def definitely_invalid(text: str | None) -> bool:
    """The words say that the request itself is wrong, and nothing in them that it may pass."""
    head = (text or "")[:_HEAD]
    return _INVALID.search(head) is not None and _PASSING.search(head) is None


def definitely_passing(text: str | None) -> bool:
    """The words say that asking again later may help."""
    return _PASSING.search((text or "")[:_HEAD]) is not None


def wrapped_status(text: str | None) -> int | None:
    """The status that a gateway's words repeat: `Error code: 429 - {…}`."""
    found = _WRAPPED.search((text or "")[:_HEAD])
    return int(found[1]) if found is not None else None

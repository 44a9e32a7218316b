"""decide → perform → journal → apply, until nothing is left to do."""

from __future__ import annotations

from collections.abc import Callable, Generator

from batchling.ledger import Action, Do, Phase, decide
from batchling.ledger.events import Finished
from batchling.runner import fetching, gathering, polling, replanning, submission
from batchling.runner.session import Session
from batchling.runner.telling import tell

PERFORM: dict[Do, Callable[[Session, Action], None]] = {
    Do.UPLOAD: submission.send,
    Do.CREATE: submission.create,
    Do.RECOVER: submission.recover,
    Do.SETTLE: submission.settle,
    Do.AUDIT: submission.audit,
    Do.CANCEL: submission.cancel,
    Do.DROP: submission.drop,
    Do.POLL: polling.poll,
    Do.COLLECT: fetching.collect,
    Do.INGEST: gathering.ingest,
    Do.REPLAN: replanning.replan,
    Do.SPLIT: replanning.split,
}

SENDING = frozenset({Do.UPLOAD, Do.CREATE, Do.RECOVER, Do.SETTLE, Do.AUDIT, Do.SPLIT})
"""What `--detach` still does before it returns."""


Steps = Generator[float, None, str]
"""Does what there is to do now, then yields until when (Unix seconds) there is nothing; in the end returns why."""


def drive(session: Session, *, detach: bool = False, awaited: Callable[[Session], float | None] | None = None) -> str:
    """Does everything there is to do for a plan, and waits in between. Arguments and result: see `steps`."""
    going = steps(session, detach=detach, awaited=awaited)
    while True:
        try:
            until = next(going)
        except StopIteration as end:
            return str(end.value)
        session.clock.sleep(max(0.0, until - session.clock.now()))


def steps(session: Session, *, detach: bool = False, awaited: Callable[[Session], float | None] | None = None) -> Steps:
    """Drives a plan without sleeping, so that one process can drive several.

    Args:
        detach: return as soon as nothing can be sent now, without waiting for answers.
        awaited: called when this plan has nothing left of its own but waits for another plan's keys;
            seconds until it is worth another look, None when the other plan cannot go on either.

    Returns:
        Why it returned: `finished`, `parked`, `refused`, `budget`, `unread`, `detached`, or `awaiting`.

    Raises:
        ProviderError: the provider refuses to show batches that nothing else can be told about.
    """
    while True:
        actions = decide(session.state, session.clock.now(), session.policy, session.pace)
        if detach:
            actions = [a for a in actions if a.do in SENDING or a.do in (Do.STOP, Do.FINISH)]
            if not actions:
                return "detached"
        first = actions[0]
        if first.do is Do.WAIT:
            yield min(first.until, tell(session))
        elif first.do is Do.STOP:
            if first.why == "unread":
                polling.check_refused(session)
            return first.why
        elif first.do is Do.FINISH:
            if session.state.awaits:
                pause = None if awaited is None else awaited(session)
                if pause is None:
                    return "awaiting"
                # The other plan may be one that this process drives as well.
                yield min(session.clock.now() + pause, tell(session))
                continue
            state = "cancelled" if session.state.cancel_requested else "finished"
            session.record(Finished(state, session.state.counts()))
            return "finished"
        else:
            for action in actions:
                PERFORM[action.do](session, action)
                if action.do in (Do.UPLOAD, Do.CREATE) and not _went_out(session, action):
                    break  # what became of it (or why it was refused) decides what may be sent next


def _went_out(session: Session, action: Action) -> bool:
    return session.shard(action.shard, action.attempt)[1].phase is Phase.CREATED

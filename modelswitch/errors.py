"""The tree of exceptions. Every message says what happened, to what, and what to do next.

ModelSwitchError                  exit 1
├── UsageError                    exit 2   a flag, a name, a stage that cannot be
│   └── SettingsError                      modelswitch.toml or MODELSWITCH_*
├── NotFound                               a model, a version, an archive that is not there
├── Refused                                a move that policy or the line forbids
│   ├── Quarantined                        rolled back earlier, not lifted since
│   ├── NothingToGoBackTo                  a rollback without a way back
│   ├── NoLongerServes                     a rollback of what has been replaced meanwhile
│   └── PlanRefused                        a Terraform plan that would do more than publish pins
├── Superseded                             another command wrote the row first
├── AtWork                                 another command holds the model's lease
├── LedgerCorrupt                          the hash chain does not hold
├── ArchiveError                           a version that cannot be built
│   └── DigestMismatch                     bytes that are not what their digest says
├── PinsError                              a pins document that cannot be taken
│   └── PinsTooNew                         its schema is of a later release
├── ServerError                            TorchServe refused, or its worker failed
│   ├── ServerConflict                     the label is registered with other bytes
│   ├── LoadFailed                         a worker that cannot load its model
│   └── GoldenWrong                        a golden request answered wrong
├── PredictionError                        a prediction that was not made, whatever the reason
│   ├── BadRequest                         the caller's to mend: a 4xx that says what was expected
│   ├── NotServed                          no such model or version at that address
│   └── PredictionFailed                   the model failed on this request
├── TerraformFailed                        it cannot run, plan or apply as things are
├── StackError                             the local stack cannot be started or stopped
├── Temporary                              may go away by itself: the only kind that is retried
│   ├── LedgerUnreachable
│   ├── RegistryUnreachable
│   ├── ServerUnreachable
│   │   ├── NotReached                     a prediction: nothing was sent
│   │   ├── ConnectionLost                 a prediction: sent, but no whole answer came back
│   │   └── TimedOut                       a prediction: sent, but not answered in time
│   ├── Overloaded                         a prediction: refused unlooked at; try again later
│   ├── OutOfMemory                        a prediction: the worker had no memory for it
│   ├── WorkerDied                         a prediction: while it was under way
│   ├── FleetUnreachable
│   └── StoreUnreachable
├── WaitsForApproval              exit 5   a plan whose pull request is not applied yet
├── NotProven                     exit 4   undone: a server could not load or prove
└── Behind                        exit 4   done, but some server is behind

What a prediction may raise is a PredictionError; of those, what may go away by itself is
Temporary too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ModelSwitchError(Exception):
    """Base of all. `code` is stable (JSON's error.code); `next` is a command or an advice."""

    code = "failed"
    exit = 1

    def __init__(self, message: str, *, next: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next = next


class UsageError(ModelSwitchError):
    code = "usage"
    exit = 2


class SettingsError(UsageError):
    code = "settings"


class NotFound(ModelSwitchError):
    code = "not_found"


class Refused(ModelSwitchError):
    code = "refused"


class Quarantined(Refused):
    code = "quarantined"


class NothingToGoBackTo(Refused):
    code = "nothing_to_go_back_to"


class NoLongerServes(Refused):
    code = "no_longer_serves"


class PlanRefused(Refused):
    code = "plan_refused"


class Superseded(ModelSwitchError):
    """`winner` is the event that stands where ours would have stood."""

    code = "superseded"

    def __init__(self, message: str, *, winner: object = None, next: str | None = None) -> None:
        super().__init__(message, next=next)
        self.winner = winner


class AtWork(ModelSwitchError):
    code = "at_work"


class LedgerCorrupt(ModelSwitchError):
    code = "ledger_corrupt"


class ArchiveError(ModelSwitchError):
    code = "archive"


class DigestMismatch(ArchiveError):
    code = "digest_mismatch"


class PinsError(ModelSwitchError):
    code = "pins"


class PinsTooNew(PinsError):
    code = "pins_too_new"


class ServerError(ModelSwitchError):
    code = "server"


class ServerConflict(ServerError):
    code = "server_conflict"


class LoadFailed(ServerError):
    code = "load_failed"


class GoldenWrong(ServerError):
    code = "golden_wrong"


class PredictionError(ModelSwitchError):
    """What is known of a prediction that was not made.

    `status` is HTTP's, None where nobody answered; `said` are the answer's own words. `reason` is
    stable: `queue_full_or_no_worker`,
    `out_of_memory`, `worker_died`, else the worker's or the server's own code. `retry_after_s`:
    when asking again may help, in seconds; None where it will not. `may_have_run`: the model may
    have seen the request. `facts` are what the worker said besides its message.
    """

    code = "prediction"
    may_have_run = False

    def __init__(
        self,
        message: str,
        *,
        next: str | None = None,
        status: int | None = None,
        said: str = "",
        reason: str = "",
        retry_after_s: float | None = None,
        model_version: str | None = None,
        digest: str | None = None,
        correlation_id: str | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, next=next)
        self.status = status
        self.said = said
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.model_version = model_version
        self.digest = digest
        self.correlation_id = correlation_id
        self.facts = dict(facts or {})


class BadRequest(PredictionError):
    code = "bad_request"


class NotServed(PredictionError):
    code = "not_served"


class PredictionFailed(PredictionError):
    code = "prediction_failed"
    may_have_run = True


class TerraformFailed(ModelSwitchError):
    code = "terraform_failed"


class StackError(ModelSwitchError):
    code = "stack"


class Temporary(ModelSwitchError):
    code = "unreachable"


class LedgerUnreachable(Temporary):
    code = "ledger_unreachable"


class RegistryUnreachable(Temporary):
    code = "registry_unreachable"


class ServerUnreachable(Temporary):
    code = "server_unreachable"


class NotReached(PredictionError, ServerUnreachable):
    code = ServerUnreachable.code


class ConnectionLost(PredictionError, ServerUnreachable):
    code = "connection_lost"
    may_have_run = True


class TimedOut(PredictionError, ServerUnreachable):
    code = "timed_out"
    may_have_run = True


class Overloaded(PredictionError, Temporary):
    code = "overloaded"


class OutOfMemory(PredictionError, Temporary):
    code = "out_of_memory"
    may_have_run = True


class WorkerDied(PredictionError, Temporary):
    code = "worker_died"
    may_have_run = True


class FleetUnreachable(Temporary):
    code = "fleet_unreachable"


class StoreUnreachable(Temporary):
    code = "store_unreachable"


class WaitsForApproval(ModelSwitchError):
    code = "waits_for_approval"
    exit = 5


class NotProven(ModelSwitchError):
    code = "server_not_proven"
    exit = 4


class Behind(ModelSwitchError):
    code = "server_behind"
    exit = 4

"""What is known of a request from its arrival to its end, whatever becomes of it."""

import re
import time
import uuid
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection
from starlette.types import Scope

from .request_meter import RequestMeter

ID_HEADER = "x-request-id"
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(slots=True, eq=False)
class Arrival:
    """A request that has arrived.

    request_id: the client's own where it sent a sane one; time: `time.perf_counter()` before its
    body was read; meter: what measures its answer, once one is begun; error: the code of the
    error that it was answered with.
    """

    request_id: str
    time: float = field(default_factory=time.perf_counter)
    meter: RequestMeter | None = None
    error: str | None = None

    @classmethod
    def note(cls, scope: Scope) -> "Arrival":
        """Notes the arrival of this HTTP request for `arrival_of`."""
        connection = HTTPConnection(scope)
        sent = connection.headers.get(ID_HEADER, "")
        request_id = sent if _SANE_ID.fullmatch(sent) else f"req_{uuid.uuid4().hex}"
        arrival = connection.state.arrival = cls(request_id)
        return arrival


def arrival_of(connection: HTTPConnection) -> Arrival:
    """The request's arrival."""
    arrival = connection.state.arrival
    assert isinstance(arrival, Arrival)
    return arrival

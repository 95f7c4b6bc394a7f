"""`python -m gistserve.bench.http_overhead.health HOST PORT COUNT SECONDS`: how soon is a server's
/health answered? Prints seconds as a JSON list.

A process of its own, as a load balancer has it: what a busy client delays is not counted.
"""

from __future__ import annotations

import http.client
import json
import sys
import time


def probe(host: str, port: int, count: int, interval: float) -> list[float]:
    """Seconds that each of `count` requests took, sent every `interval` seconds.

    Raises:
        RuntimeError: an answer other than 200.
    """
    connection = http.client.HTTPConnection(host, port, timeout=60)
    taken = []
    due = time.perf_counter()
    for _ in range(count):
        time.sleep(max(0.0, due - time.perf_counter()))
        sent = time.perf_counter()
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
        taken.append(time.perf_counter() - sent)
        if answer.status != 200:
            raise RuntimeError(f"/health answered {answer.status}")
        due = max(due + interval, time.perf_counter())
    connection.close()
    return taken


if __name__ == "__main__":
    host, port, count, interval = sys.argv[1:]
    json.dump(probe(host, int(port), int(count), float(interval)), sys.stdout)

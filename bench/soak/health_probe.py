"""Asks /health all the time, from a thread that the load does not delay."""

from __future__ import annotations

import http.client
import threading
import time
from urllib.parse import urlsplit


class HealthProbe:
    """Times GET /health every `interval` seconds while it is `watching` an address."""

    def __init__(self, interval: float = 0.1) -> None:
        self.seconds: list[float] = []
        self._interval = interval
        self._url: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def watch(self, url: str | None) -> None:
        """From now on asks this server; None: none."""
        self._url = url

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            url = self._url
            if url is None:
                continue
            began = time.perf_counter()
            if self._ask(url) and self._url == url:
                self.seconds.append(time.perf_counter() - began)

    @staticmethod
    def _ask(url: str) -> bool:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

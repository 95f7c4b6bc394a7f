"""HTTP to a running gistserve server, with errors told as one line."""

from typing import Annotated, Any

import typer

from .terminal import fail

DEFAULT_URL = "http://127.0.0.1:8000"

UrlOption = Annotated[
    str, typer.Option("--url", envvar="GISTSERVE_URL", help="Address of the running server.")
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="GISTSERVE_API_KEY", help="The server's API key, if any."),
]


class Connection:
    """Requests to one server; any failure ends the command with the server's own message.

    Parameters
    ----------
    url : address of the server, with or without a trailing `/v1`.
    api_key : sent as a bearer token where given.
    timeout : seconds for one request; compressing a long prompt may take a while.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 600.0) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout

    def request(
        self,
        method: str,
        path: str,
        *,
        json: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The decoded JSON answer; ends the command on a refused connection or an error status."""
        import httpx

        try:
            response = httpx.request(
                method,
                f"{self.url}{path}",
                json=json,
                params=params,
                headers=self._headers,
                timeout=self._timeout,
            )
        except httpx.TimeoutException:
            fail(f"{self.url} did not answer within {self._timeout:g} s.")
        except (httpx.TransportError, httpx.InvalidURL) as error:
            fail(
                f"no answer from {self.url} ({error}).",
                remedy="Is `gistserve serve` running there? --url gives another address.",
            )
        if response.is_error:
            fail(f"{self.url} answered {response.status_code}: {_error_message(response.text)}")
        try:
            body = response.json() if response.content else {}
        except ValueError:
            body = None
        if not isinstance(body, dict):
            fail(f"{self.url}{path} did not answer with JSON.", remedy="Is it a gistserve server?")
        return body

    def prompts(self) -> list[dict[str, Any]]:
        """All registered prompts that the API key may see, over all pages."""
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {"limit": 100}
        while True:
            page = self.request("GET", "/v1/prompts", params=params)
            found += page["data"]
            if not page.get("has_more") or not page["data"]:
                return found
            params["after"] = page["data"][-1]["id"]

    def find_prompt(self, name_or_id: str) -> dict[str, Any]:
        """The prompt with this id or name; ends the command, naming the choices, if none has it."""
        prompts = self.prompts()
        for prompt in prompts:
            if name_or_id in (prompt["id"], prompt.get("name")):
                return prompt
        names = ", ".join(prompt.get("name") or prompt["id"] for prompt in prompts) or "none"
        fail(f"no prompt {name_or_id!r} on {self.url}.", remedy=f"Registered: {names}.")

    def default_model(self) -> str:
        """Id of the first model the server lists (registered prompts come after the models)."""
        models = self.request("GET", "/v1/models")["data"]
        if not models:
            fail(f"{self.url} serves no model.")
        return str(models[0]["id"])


def _error_message(body: str) -> str:
    """The message inside an OpenAI-shaped error, or the beginning of whatever came instead."""
    import json

    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200] or "(empty answer)"

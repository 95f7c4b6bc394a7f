"""`gistserve chat`: talk to a running server, with or without a registered prompt."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .connection import DEFAULT_URL, ApiKeyOption, Connection, UrlOption
from .terminal import err

if TYPE_CHECKING:
    from openai import OpenAI


def chat(
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Send this one message and leave.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Name or id of a registered prompt to talk under.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model; by default the server's first.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.0,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Chat with a running server; answers are streamed."""
    connection = Connection(url, api_key)
    extra: dict[str, Any] = {}
    if prompt is not None:
        found = connection.find_prompt(prompt)
        extra["prompt_id"] = found["id"]
        model = model or found["model"]
    request = {
        "model": model or connection.default_model(),
        "max_tokens": max_tokens,
        "temperature": temperature,
        "extra_body": extra,
    }
    client = _client(connection, api_key)
    if message is None:
        _converse(client, request)
    elif _stream_answer(client, request, [{"role": "user", "content": message}]) is None:
        raise typer.Exit(1)


def _client(connection: Connection, api_key: str | None) -> "OpenAI":
    from openai import OpenAI

    return OpenAI(base_url=f"{connection.url}/v1", api_key=api_key or "none", max_retries=0)


def _converse(client: "OpenAI", request: dict[str, Any]) -> None:
    """Questions and answers until `/exit` or end of input; `/new` forgets the conversation."""
    err.print("/new starts over, /exit leaves.", style="dim")
    messages: list[dict[str, str]] = []
    while (line := _read_line()) is not None:
        if line == "/new":
            messages.clear()
        elif line:
            question = {"role": "user", "content": line}
            answer = _stream_answer(client, request, [*messages, question])
            if answer is not None:
                messages += [question, {"role": "assistant", "content": answer}]


def _read_line() -> str | None:
    try:
        line = input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return None
    return None if line == "/exit" else line


def _stream_answer(
    client: "OpenAI", request: dict[str, Any], messages: list[dict[str, str]]
) -> str | None:
    """Print the answer as it comes; returns its whole text, or None after telling an error."""
    from openai import OpenAIError

    pieces: list[str] = []
    try:
        request = {**request, "messages": messages, "stream": True}
        answer: Any = client.chat.completions.create(**request)
        with answer as stream:
            for chunk in stream:
                piece = (chunk.choices[0].delta.content if chunk.choices else None) or ""
                pieces.append(piece)
                typer.echo(piece, nl=False)
    except KeyboardInterrupt:
        typer.echo(" [stopped]", err=True)
    except OpenAIError as error:
        err.print(f"error: {_reason(error)}", style="red", markup=False, highlight=False)
        return None
    typer.echo()
    return "".join(pieces)


def _reason(error: Exception) -> str:
    """The server's own message where it sent one."""
    body = getattr(error, "body", None)
    if isinstance(body, dict) and "message" in body:
        return str(body["message"])
    return str(error)

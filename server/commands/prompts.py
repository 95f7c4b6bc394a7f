"""`gistserve prompts`: register, list, show and delete prompts on a running server."""

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .connection import DEFAULT_URL, ApiKeyOption, Connection, UrlOption
from .terminal import fail, out, waiting

app = typer.Typer(
    no_args_is_help=True,
    help="Register, list, show and delete prompts on a running server.",
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the server's JSON.")]
PromptArgument = Annotated[str, typer.Argument(help="Id or name of the prompt.")]


class Compression(StrEnum):
    """How a registered prompt is kept; the values of the API's `compression`."""

    auto = "auto"
    gist = "gist"
    prefix = "prefix"


@app.command()
def register(
    file: Annotated[
        str,
        typer.Argument(
            help="Text file with the system prompt, .json file with a list of messages (or an "
            "object of messages and tools), or - for text from standard input."
        ),
    ] = "-",
    name: Annotated[str | None, typer.Option(help="Name, to use as `MODEL/NAME`.")] = None,
    model: Annotated[str | None, typer.Option(help="Model; by default the server's first.")] = None,
    compression: Annotated[
        Compression,
        typer.Option(help="gist: few tokens, lossy; prefix: exact; auto: gist where possible."),
    ] = Compression.auto,
    gist_tokens: Annotated[int | None, typer.Option(min=1, help="Number of gist tokens.")] = None,
    ttl: Annotated[str | None, typer.Option(help="Life time in seconds, as in 3600s.")] = None,
    auto_match: Annotated[
        bool, typer.Option("--auto-match", help="Also serve requests that merely begin with it.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Plain text for /v1/completions, not a system message.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compress a prompt and keep it on the server."""
    body = _prompt_content(file, raw)
    options = {"name": name, "model": model, "gist_tokens": gist_tokens, "ttl": _seconds(ttl)}
    body |= {key: value for key, value in options.items() if value is not None}
    body |= {"compression": compression.value, "auto_match": auto_match}
    connection = Connection(url, api_key)
    with waiting("compressing the prompt"):
        prompt = connection.request("POST", "/v1/prompts", json=body)
    _print_prompt(prompt, as_json)


@app.command("list")
def list_prompts(
    url: UrlOption = DEFAULT_URL, api_key: ApiKeyOption = None, as_json: JsonOption = False
) -> None:
    """List the registered prompts."""
    from rich.table import Table

    prompts = Connection(url, api_key).prompts()
    if as_json:
        typer.echo(json.dumps(prompts, indent=2))
        return
    table = Table(box=None)
    table.add_column("id", no_wrap=True)
    columns = ("name", "model", "method", "tokens", "slots", "bytes", "tier", "expires", "used")
    for column in (*columns, "saved"):
        table.add_column(column, overflow="fold")
    for prompt in prompts:
        made = prompt["compression"]
        table.add_row(
            prompt["id"],
            prompt.get("name") or "",
            prompt["model"],
            made["method"],
            str(made["prompt_tokens"]),
            str(made["slots"]),
            f"{made['cache_bytes']:,}",
            prompt["storage"]["tier"] if prompt["status"] == "ready" else prompt["status"],
            _time(prompt.get("expires_at")) or "never",
            str(prompt.get("usage", {}).get("requests", 0)),
            f"{prompt.get('usage', {}).get('tokens_saved', 0):,}",
        )
    out.print(table)


@app.command()
def show(
    prompt: PromptArgument,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one prompt."""
    _print_prompt(Connection(url, api_key).find_prompt(prompt), as_json)


@app.command()
def delete(
    prompt: PromptArgument,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete one prompt and its cache."""
    connection = Connection(url, api_key)
    found = connection.find_prompt(prompt)
    answer = connection.request("DELETE", f"/v1/prompts/{found['id']}")
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        out.print(f"deleted {found['id']}", highlight=False)


def _prompt_content(file: str, raw: bool) -> dict[str, Any]:
    """The `messages` or `text` of a registration, from a file or standard input."""
    text = _read(file)
    if not text.strip():
        fail(f"{file} is empty.", remedy="A prompt needs some text.")
    if raw:
        return {"text": text}
    if file.endswith(".json"):
        return _chat(file, text)
    return {"messages": [{"role": "system", "content": text.strip()}]}


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}.")
    except UnicodeDecodeError:
        fail(f"{file} is not UTF-8 text.")


def _chat(file: str, text: str) -> dict[str, Any]:
    """The `messages` of a JSON file, and its `tools` where it has any."""
    try:
        data = json.loads(text)
    except ValueError as error:
        fail(f"{file} is not valid JSON ({error}).")
    data = data if isinstance(data, dict) else {"messages": data}
    if not isinstance(data.get("messages"), list):
        fail(f"{file} holds no list of messages.", remedy='Wanted: [{"role": …, "content": …}].')
    return {key: data[key] for key in ("messages", "tools") if key in data}


def _seconds(ttl: str | None) -> str | None:
    """`3600` and `3600s` both mean an hour; the API wants the second form."""
    return f"{ttl}s" if ttl is not None and ttl.isdecimal() else ttl


def _time(timestamp: float | None) -> str:
    if timestamp is None:
        return ""
    return datetime.fromtimestamp(timestamp, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _print_prompt(prompt: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(prompt, indent=2))
        return
    from rich.table import Table

    made = prompt["compression"]
    usage = prompt.get("usage", {})
    table = Table(show_header=False, box=None)
    rows = {
        "id": prompt["id"],
        "name": prompt.get("name") or "",
        "model": prompt["model"],
        "status": prompt["status"],
        "created": _time(prompt["created_at"]),
        "expires": _time(prompt.get("expires_at")) or "never",
        "life after use": prompt["ttl"] or "",
        "method": made["method"],
        "prompt tokens": str(made["prompt_tokens"]),
        "cache slots": f"{made['slots']}  ({made['ratio']:.1f}x fewer)",
        "cache bytes": f"{made['cache_bytes']:,}  (uncompressed {made['uncompressed_bytes']:,})",
        "lies on": prompt["storage"]["tier"],
        "requests": str(usage.get("requests", 0)),
        "tokens saved": str(usage.get("tokens_saved", 0)),
        "last used": _time(usage.get("last_used_at")) or "never",
    }
    for key, value in rows.items():
        table.add_row(key, value)
    out.print(table, highlight=False)

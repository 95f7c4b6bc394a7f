"""`gistserve demo`: the whole job on the embedded model, measured."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..signals import terminate_as_interrupt
from .terminal import err, fail, out

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..demo.arms import Arm, ArmResult
    from ..demo.example import Example
    from ..demo.process import ServerProcess


def demo(
    model: Annotated[
        str | None,
        typer.Option(help="Another model folder with a gist adapter, in place of the embedded."),
    ] = None,
    messages: Annotated[int | None, typer.Option(min=1, help="How many messages to ask.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Serve the embedded model, compress a long prompt into gists and chat through it.

    Two servers run on this machine for the time of the demo: one that keeps prompts, and one
    without any cache to compare with. Both end with it.
    """
    from ..demo.arms import ArmError
    from ..demo.example import load_example
    from ..demo.process import ServerProcessError

    example = load_example().shortened(messages)
    try:
        with terminate_as_interrupt(), tempfile.TemporaryDirectory(prefix="gistserve-") as folder:
            prompts, results = _run(example, Path(folder), model)
    except KeyboardInterrupt:
        fail("stopped; the servers have ended.", code=130)
    except (ServerProcessError, ArmError) as error:
        fail(str(error))
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("openai", "httpx"):
            raise
        fail(f"a request failed: {error}")
    if as_json:
        arms = [result.to_json() for result in results]
        typer.echo(json.dumps({"prompts": prompts, "arms": arms}, indent=2))
    else:
        _report(example, prompts, results)


def _run(
    example: "Example", folder: Path, model: str | None
) -> tuple[dict[str, dict[str, Any]], list["ArmResult"]]:
    """Start the servers, register the prompt both ways, play all arms."""
    from ..demo.arms import compare
    from ..demo.process import ServerProcess

    chosen = ["--model", model] if model else []
    keeping = ServerProcess([*chosen, "--store", str(folder / "store")], folder / "keeping.log")
    plain = ServerProcess(
        [*chosen, "--store", str(folder / "empty"), "--no-prefix-caching"], folder / "plain.log"
    )
    with _progress() as progress:
        task = progress.add_task("starting two servers", total=None)
        with keeping, plain:
            keeping.wait_until_ready()
            plain.wait_until_ready()
            progress.update(task, description="compressing the prompt into gists", completed=0)
            prompts = {"gist": _register(keeping, example, "gist")}
            progress.update(task, description="keeping the prompt's exact prefix cache")
            prompts["prefix"] = _register(keeping, example, "prefix")
            arms = _arms(keeping, plain, example, prompts)
            progress.update(
                task, description="chatting", total=len(arms) * len(example.turns), completed=0
            )
            results = compare(arms, example, lambda: progress.advance(task))
    return prompts, results


def _progress() -> "Progress":
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err, transient=True)


def _register(server: "ServerProcess", example: "Example", method: str) -> dict[str, Any]:
    import httpx

    body = {
        "name": f"policy-{method}",
        "messages": [{"role": "system", "content": example.prompt}],
        "compression": method,
    }
    response = httpx.post(f"{server.url}/v1/prompts", json=body, timeout=300)
    if response.is_error:
        fail(f"registering the prompt ({method}) failed: {response.text}")
    prompt: dict[str, Any] = response.json()
    return prompt


def _arms(
    keeping: "ServerProcess",
    plain: "ServerProcess",
    example: "Example",
    prompts: dict[str, dict[str, Any]],
) -> list["Arm"]:
    from openai import OpenAI

    from ..demo.arms import Arm

    client = OpenAI(base_url=f"{keeping.url}/v1", api_key="none", max_retries=0)
    uncached = OpenAI(base_url=f"{plain.url}/v1", api_key="none", max_retries=0)
    model = prompts["gist"]["model"]
    arms = []
    for name, method in (("gist", "gist"), ("prefix cache", "prefix")):
        made = prompts[method]["compression"]
        arms.append(
            Arm(
                name,
                client,
                model,
                prompt_id=prompts[method]["id"],
                slots=made["slots"],
                cache_bytes=made["cache_bytes"],
                gist_slots=made["slots"] if method == "gist" else 0,
                cached_tokens=made["prompt_tokens"],
            )
        )
    leading = ({"role": "system", "content": example.prompt},)
    return [
        *arms,
        Arm("no cache", uncached, model, leading=leading),
        Arm("no prompt", client, model),
    ]


def _report(
    example: "Example", prompts: dict[str, dict[str, Any]], results: list["ArmResult"]
) -> None:
    from rich.table import Table

    made = prompts["gist"]["compression"]
    turn = example.turns[1]
    out.print(f"[bold]prompt[/]  {example.prompt}", highlight=False)
    out.print(f"[bold]message[/] {turn.message}", highlight=False)
    out.print(f"[bold]wanted[/]  {turn.reply}\n", highlight=False)
    table = Table(
        title=f"{made['prompt_tokens']} prompt tokens in {made['slots']} cache slots: "
        f"{made['ratio']:.1f}x fewer"
    )
    table.add_column("arm", no_wrap=True)
    for column in ("tokens", "slots", "bytes", "TTFT", "right"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("answer", overflow="fold")
    for result in results:
        first = result.answers[0]
        table.add_row(
            result.name,
            str(first.prompt_tokens),
            str(result.slots),
            f"{result.cache_bytes:,}",
            f"{result.ttft * 1000:.1f} ms",
            f"{result.right}/{len(result.answers)}",
            first.text.strip(),
        )
    out.print(table)
    out.print(
        "gist: the prompt as gist tokens. prefix cache: its exact KV cache. no cache: sent and "
        "computed with every request. tokens: of prompt and message, uncompressed. slots, bytes: "
        "what the server keeps for the prompt between requests. TTFT: time to the first token, "
        "median over the messages, arms taking turns.",
        style="dim",
        highlight=False,
    )

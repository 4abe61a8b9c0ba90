"""Times requests to a server one by one and all at once.

    python -m diffpo_jax.serve --workdir=runs/sudoku
    python benchmarks/serving.py --url=http://127.0.0.1:8000 [--json FILE]

The prompts are the first of the server's test set, one in each request.  Both ways send the same
requests, in turn, after one untimed round of each.
"""

import argparse
import http.client
import json
import pathlib
import sys
import urllib.parse
from concurrent import futures
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import timing


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the server")
    parser.add_argument("--model", default="trained", help="(default trained)")
    parser.add_argument("--requests", type=int, default=50, metavar="N", help="(default 50)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="(default 5)")
    parser.add_argument("--fields", type=json.loads, default={}, help="JSON for every request")
    parser.add_argument("--json", metavar="FILE", help="also write everything to FILE as JSON")
    args = parser.parse_args(argv)
    if args.repeats < 1 or args.requests < 1:
        parser.error("--repeats and --requests must be 1 or more.")
    return args


def main(argv: list[str] | None = None) -> None:
    timing.run(arguments(argv), measure, report)


def measure(args: argparse.Namespace, machine: dict[str, Any]) -> dict[str, Any]:
    """All results, as in the JSON file.  Raises `UserError` if the server does not answer."""
    from diffpo_jax.system.errors import UserError

    try:
        prompts = [
            _ask(args.url, "GET", f"/api/examples/{i + 1}")["prompt"] for i in range(args.requests)
        ]
    except OSError as error:
        raise UserError(f"--url={args.url}: {error}. Start the server first.") from error
    bodies = [{"model": args.model, "prompt": text} | args.fields for text in prompts]
    usage: dict[str, list[dict[str, int]]] = {}

    def complete(body: dict[str, Any]) -> dict[str, int]:
        return _ask(args.url, "POST", "/v1/completions", body)["usage"]

    with futures.ThreadPoolExecutor(args.requests) as pool:
        ways = {
            "one by one": lambda: usage.update({"one by one": list(map(complete, bodies))}),
            "at once": lambda: usage.update({"at once": list(pool.map(complete, bodies))}),
        }
        for way in ways.values():
            way()
        times = timing.interleave(ways, args.repeats)
    result: dict[str, Any] = {"machine": machine, "settings": vars(args)}
    for name, seconds in times.items():
        totals = {
            key: sum(one[key] for one in usage[name]) for key in ("completion_tokens", "calls")
        }
        result[name] = {"seconds": sorted(seconds.wall), **totals}
    pairs = zip(times["one by one"].wall, times["at once"].wall)
    result["ratios"] = sorted(one / other for one, other in pairs)
    return result


def report(result: dict[str, Any]) -> str:
    """The table."""
    lines = [f"{'requests':12}{'median s':>10}{'tokens/s':>10}{'calls/s':>10}{'calls':>8}"]
    for name in ("one by one", "at once"):
        one = result[name]
        seconds = _median(one["seconds"])
        rates = (one[key] / seconds for key in ("completion_tokens", "calls"))
        shown = "".join(f"{rate:10.0f}" for rate in rates)
        lines.append(f"{name:12}{seconds:10.2f}{shown}{one['calls']:8}")
    ratios = result["ratios"]
    lines.append(
        f"at once is {_median(ratios):.1f} times as fast ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    )
    return "\n".join(lines)


def _median(ordered: list[float]) -> float:
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[-1 - middle]) / 2


def _ask(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON of an answer.  Raises `OSError` if there is none."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=600)
    content = None if body is None else json.dumps(body)
    try:
        connection.request(method, path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise OSError(text.decode())
        return json.loads(text)
    finally:
        connection.close()


if __name__ == "__main__":
    main()

"""A run with random weights, and a server of it in a thread."""

import contextlib
import http.client
import json
import threading
import time

import jax
import orbax.checkpoint as ocp
from least import LEAST, sudoku

from diffpo_jax.config import convert
from diffpo_jax.data import tokenizers
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.run import serve, setup, trained
from diffpo_jax.serving.app import make_app
from diffpo_jax.serving.gate import Gate
from diffpo_jax.serving.server import Server
from diffpo_jax.system import ports

PUZZLE = "0431034232004123"
NAMES = ("trained", "base")


def config(**overrides):
    """The smallest run, with a threshold head; its completions never end early."""
    values = sudoku.get_config("smoke,prompt")
    own = {"sampler.slots": 4, "sampler.suppress_end": "never"}
    values.update_from_flattened_dict(LEAST | own | overrides)
    return convert.from_config_dict(values)


def make_run(path, **overrides):
    """Writes a run: base and trained models of different seeds; returns its workdir."""
    path.mkdir(exist_ok=True)
    own = config(**overrides)
    (path / "config.json").write_text(convert.to_json(own))
    mesh = mesh_lib.make_mesh(own.mesh)
    policy = setup.make_policy(own, tokenizers.make_tokenizer(own.tokenizer), mesh)
    for seed, stage in enumerate(("base", "rl")):
        params = policy.init(jax.random.key(seed))
        if stage == "rl":  # what RL trained
            params["state_head"] = policy.init_state_head(jax.random.key(2))
            params = {name: params[name] for name in trained.groups_of(own)}
        with ocp.StandardCheckpointer() as writer:
            writer.save(path / "checkpoints" / stage / "3" / "params", params)
    return str(path)


class Client:
    """Requests to a server, one connection for each."""

    def __init__(self, port):
        self.port = port

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def get(self, path, **headers):
        """Status and JSON, or text."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", path, headers=headers)
            return answer(connection)

    def post(self, path, body, kind="application/json", **headers):
        with contextlib.closing(self.connect()) as connection:
            self.send(connection, path, body, kind, **headers)
            return answer(connection)

    def send(self, connection, path, body, kind="application/json", **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, content, {"Content-Type": kind, **headers})

    def complete(self, **fields):
        """The JSON of completions of the puzzle by the trained model."""
        status, body = self.post("/v1/completions", {"model": "trained", "prompt": PUZZLE} | fields)
        assert status == 200, body
        return body

    def lines(self, **fields):
        """What the page is told."""
        status, text = self.post("/api/write", {"model": "trained", "prompt": PUZZLE} | fields)
        assert status == 200, text
        return [json.loads(line) for line in text.splitlines()]


def answer(connection):
    response = connection.getresponse()
    text = response.read().decode()
    is_json = response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(text) if is_json else text


class Served:
    """A running server: its site, gate and client."""

    def __init__(self, site):
        self.site, self.log = site, []
        self.gate = Gate(make_app(site), ("127.0.0.1", "localhost"), self.log.append)
        self.server = Server(self.gate)
        self.listening = ports.listen("127.0.0.1", 0)
        self.client = Client(self.listening.getsockname()[1])
        self.thread = threading.Thread(target=self.server.run_on, args=(self.listening,))

    def __enter__(self):
        self.site.engine.start()
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.server.drain()
        self.thread.join(60)
        self.site.engine.close()
        assert not self.thread.is_alive()

    def wait_for(self, running, waiting):
        """Waits until the trained model has so many rows."""
        wanted = {"running": running, "waiting": waiting}
        until(lambda: self.site.engine.state()["trained"] == wanted)


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


def start(workdir, names=NAMES, **overrides):
    return Served(serve.make_site(config(**overrides), workdir, names))

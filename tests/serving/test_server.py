"""The server: requests are batched, and answered as `generate` answers."""

import pathlib
import socket
import sys
import threading

import pytest
import served
from served import NAMES, PUZZLE, config

from diffpo_jax.run import complete, serve
from diffpo_jax.serving import batch as batch_lib
from diffpo_jax.serving.engine import Engine
from diffpo_jax.system.errors import UserError

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from benchmarks import serving


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return served.make_run(tmp_path_factory.mktemp("serving") / "run")


@pytest.fixture(scope="module")
def running(workdir):
    with served.start(workdir) as server:
        yield server


@pytest.fixture
def client(running):
    yield running.client
    running.wait_for(0, 0)


@pytest.fixture
def held(monkeypatch):
    """Stops calls of batches until it is set; counts the rows of each call."""
    event, sizes, call = threading.Event(), [], batch_lib.Batch.call
    event.set()

    def when_set(self):
        if self.running:
            event.wait(60)
            sizes.append(self.running)
        call(self)

    monkeypatch.setattr(batch_lib.Batch, "call", when_set)
    event.sizes = sizes
    yield event
    event.set()


def by_generate(workdir, texts, model="trained", dial=None, **overrides):
    return complete.complete(config(**overrides), workdir, texts, model=model, dial=dial)


def puzzles(running, count):
    return [example.prompt for example in running.site.examples[:count]]


def threads(jobs):
    made = [threading.Thread(target=job) for job in jobs]
    for thread in made:
        thread.start()
    return made


def test_completions_are_those_of_generate(workdir, running, client):
    texts = puzzles(running, 6)
    body = client.complete(prompt=texts)
    expected = by_generate(workdir, texts)
    for choice, one in zip(body["choices"], expected, strict=True):
        assert choice["text"] == one.text
        assert choice["calls"] == one.nfe
        assert choice["gamma"] == pytest.approx(one.value, rel=1e-5)
        assert choice["finish_reason"] == "length"
    assert [choice["index"] for choice in body["choices"]] == [*range(6)]
    calls = sum(one.nfe for one in expected)
    usage = {"prompt_tokens": 96, "completion_tokens": 96, "total_tokens": 192, "calls": calls}
    assert body["usage"] == usage
    assert (body["object"], body["model"]) == ("text_completion", "trained")


def test_rows_have_their_own_gamma_and_model(workdir, running, client):
    """Requests of one moment, each with its own γ, as `generate` has them one by one."""
    asked = [("trained", 0.0), ("trained", 1e9), ("trained", 0.7), ("base", 0.0), ("base", 0.7)]
    found = {}

    def ask(model, gamma):
        found[model, gamma] = client.complete(model=model, gamma=gamma)["choices"][0]

    for thread in threads([lambda x=x: ask(*x) for x in asked]):
        thread.join()
    for (model, gamma), choice in found.items():
        one = by_generate(workdir, [PUZZLE], model, gamma)[0]
        assert (choice["text"], choice["calls"]) == (one.text, one.nfe), (model, gamma)
        assert choice["gamma"] == pytest.approx(gamma)
    assert found["trained", 0.0]["calls"] == 16 and found["trained", 1e9]["calls"] == 1


def test_the_learned_gamma_can_be_scaled(client):
    one, other = (client.complete(scale=x)["choices"][0]["gamma"] for x in (1, 4))
    assert other == pytest.approx(4 * one, rel=1e-5)


def test_a_seed_draws_what_generate_draws(workdir, client):
    hot = {"evaluation.temperature": 1.5}
    given = client.complete(temperature=1.5, seed=5, n=1)["choices"][0]
    assert given["text"] == by_generate(workdir, [PUZZLE], seed=5, **hot)[0].text
    many = client.complete(temperature=1.5, seed=5, n=4)["choices"]
    assert many[0]["text"] == given["text"]
    assert len({choice["text"] for choice in many}) > 1
    assert [client.complete(temperature=1.5)["choices"][0]["text"] for _ in range(4)] != (
        [given["text"]] * 4
    )
    assert len({choice["text"] for choice in client.complete(n=3)["choices"]}) == 1


def test_fewer_tokens_end_the_row_sooner(client):
    whole = client.complete(gamma=0)
    part = client.complete(gamma=0, max_tokens=3)
    assert part["choices"][0]["text"] == whole["choices"][0]["text"][:3]
    assert part["usage"]["completion_tokens"] == 3
    assert part["usage"]["calls"] <= whole["usage"]["calls"]
    cut = client.complete(gamma=0, stop=whole["choices"][0]["text"][2:4])["choices"][0]
    assert len(cut["text"]) <= 2 and cut["finish_reason"] == "stop"


def test_token_ids_are_read_as_they_are(running, client):
    ids = running.site.texts._tokenizer(PUZZLE, add_special_tokens=False)["input_ids"]
    assert (
        client.complete(prompt=ids)["choices"][0]["text"]
        == (client.complete()["choices"][0]["text"])
    )
    status, body = client.post("/v1/completions", {"model": "trained", "prompt": [1, 3]})
    assert status == 400 and "mask token" in body["error"]["message"]
    status, body = client.post("/v1/completions", {"model": "trained", "prompt": [99]})
    assert status == 400 and "the token id 99" in body["error"]["message"]


def test_fifty_requests_at_once_share_their_calls(running, client, held):
    """What waits takes the slots that are free, between the calls of the others."""
    texts = puzzles(running, 10) * 5
    alone = [client.complete(prompt=text)["choices"][0] for text in texts[:10]]
    assert set(held.sizes) == {1}
    held.sizes.clear()
    held.clear()
    found = [None] * 50

    def ask(i):
        found[i] = client.complete(prompt=texts[i])["choices"][0]

    made = threads([lambda i=i: ask(i) for i in range(50)])
    served.until(lambda: sum(running.site.engine.state()["trained"].values()) == 50)
    held.set()
    for thread in made:
        thread.join()
    assert found == alone * 5
    # No slot is idle while a row waits: before the last rows only the first call can have one.
    calls = 5 * sum(choice["calls"] for choice in alone)
    assert sum(held.sizes) == calls
    assert len(held.sizes) <= 1 + calls / 4 + max(choice["calls"] for choice in alone)


def test_a_client_that_goes_away_frees_its_slot(running, held):
    client = running.client
    held.clear()
    gone = client.connect()
    body = {"model": "trained", "prompt": [PUZZLE] * 6, "gamma": 0}
    client.send(gone, "/v1/completions", body)
    running.wait_for(4, 2)
    gone.close()
    served.until(lambda: any("went away" in line for line in running.log))
    held.set()
    # The rows would need 16 calls each; no more than one was under way.
    running.wait_for(0, 0)
    assert held.sizes == [4]
    assert client.complete()["usage"]["completion_tokens"] == 16


def test_a_page_that_goes_away_frees_its_slot(running, held):
    held.clear()
    gone = running.client.connect()
    body = {"model": "trained", "prompt": PUZZLE, "gamma": 0}
    running.client.send(gone, "/api/write", body)
    running.wait_for(1, 0)
    gone.getresponse().close()
    gone.close()
    served.until(lambda: running.gate.active == 0)
    held.set()
    running.wait_for(0, 0)
    assert held.sizes == [1]


def test_too_many_requests_are_told_to_come_again(workdir, held):
    site = serve.make_site(config(), workdir, ("trained",))
    few = site._replace(engine=Engine(site.engine._batches, most_waiting=2))
    with served.Served(few) as server:
        held.clear()
        client, body = server.client, {"model": "trained", "prompt": [PUZZLE] * 2}
        made = []
        for state in ((2, 0), (2, 2)):
            made += threads([lambda: client.post("/v1/completions", body)])
            server.wait_for(*state)
        status, answer = client.post("/v1/completions", body)
        held.set()
        for thread in made:
            thread.join()
    assert (status, answer["error"]["code"]) == (429, "busy")


def test_draining_finishes_what_runs_and_refuses_what_comes(workdir, held):
    site = serve.make_site(config(), workdir, ("trained",))
    with served.Served(site) as server:
        client, found = server.client, []
        held.clear()
        (asking,) = threads([lambda: found.append(client.complete())])
        server.wait_for(1, 0)
        server.server.drain()
        status, body = client.post("/v1/completions", {"model": "trained", "prompt": PUZZLE})
        assert (status, body["error"]["code"]) == (503, "shutting_down")
        assert client.get("/health")[0] == 503
        held.set()
        asking.join(60)
        server.thread.join(60)
        assert not server.thread.is_alive()
    assert found[0]["usage"]["completion_tokens"] == 16
    with pytest.raises(ConnectionRefusedError):
        client.get("/health")


def test_a_failing_device_fails_its_requests_and_no_others(running, monkeypatch, capfd):
    client, call = running.client, batch_lib.Batch._make_call

    def fail(self, places, size):
        raise RuntimeError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(batch_lib.Batch, "_make_call", fail)
    status, body = client.post("/v1/completions", {"model": "trained", "prompt": PUZZLE})
    assert (status, body["error"]["type"]) == (500, "server_error")
    assert "RESOURCE_EXHAUSTED" in capfd.readouterr().err
    monkeypatch.setattr(batch_lib.Batch, "_make_call", call)
    assert client.complete()["usage"]["completion_tokens"] == 16


def test_a_model_that_gives_nan_is_a_fault_and_no_answer(running, monkeypatch):
    call = batch_lib.Batch._make_call

    def broken(self, places, size):
        seen = call(self, places, size)
        return seen._replace(logprob=seen.logprob * float("nan"))

    monkeypatch.setattr(batch_lib.Batch, "_make_call", broken)
    status, body = running.client.post("/v1/completions", {"model": "trained", "prompt": PUZZLE})
    assert status == 500 and "NaN" in body["error"]["message"]
    running.wait_for(0, 0)


def test_models(client):
    status, body = client.get("/v1/models")
    assert status == 200 and [one["id"] for one in body["data"]] == ["trained", "base"]
    assert client.get("/v1/models/base")[1]["object"] == "model"
    status, body = client.get("/v1/models/gpt")
    assert status == 400 and body["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "prompt is empty: the model needs at least one token."),
        ({"prompt": "1" * 17}, "Prompt 1 has 17 tokens, more than config.sampler.prompt_length=16"),
        ({"prompt": ["1", "1x"]}, "no token for the character 'x' in prompt 2"),
        ({"model": "gpt"}, 'There is no model "gpt"'),
        ({"max_tokens": 99}, "max_tokens must be a whole number from 1 to 16, not 99."),
        ({"gamma": -1}, "gamma must be a number at least 0"),
        ({"stream": True}, "this server does not stream"),
    ],
)
def test_mistakes_are_a_400_with_a_sentence(client, changes, message):
    body = {"model": "trained", "prompt": PUZZLE} | changes
    status, answer = client.post("/v1/completions", body)
    assert status == 400
    assert message in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/x-www-form-urlencoded", 415),
        (b'{"prompt": "' + b"1" * (4 * 2**20) + b'"}', "application/json", 413),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/api/write"])
def test_bodies_that_are_no_requests(client, path, content, kind, status):
    found, body = client.post(path, content, kind)
    assert found == status and body["error"]["message"]


def test_other_addresses_and_methods(client):
    assert client.get("/v1/nothing") == (
        404,
        {
            "error": {
                "message": "There is no such address.",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        },
    )
    assert client.get("/v1/completions")[0] == 405
    assert client.post("/v1/models", {})[0] == 405


def test_only_its_own_address_is_answered(client):
    """A page of another site that resolves to this machine gets nothing."""
    assert client.get("/v1/models", Host="evil.example:8000")[0] == 400
    assert client.get("/v1/models", Host="localhost:9")[0] == 200


def test_a_chat_needs_a_template(client):
    messages = [{"role": "user", "content": PUZZLE}]
    body = {"model": "trained", "messages": messages}
    status, answer = client.post("/v1/chat/completions", body)
    assert status == 400 and "has no chat template" in answer["error"]["message"]


def test_a_chat_is_written_by_the_template(running, client, monkeypatch):
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    monkeypatch.setattr(running.site.texts._tokenizer, "chat_template", template)
    messages = [{"role": "system", "content": PUZZLE[:4]}, {"role": "user", "content": PUZZLE[4:]}]
    body = {"model": "trained", "messages": messages}
    status, answer = client.post("/v1/chat/completions", body)
    assert status == 200 and answer["object"] == "chat.completion"
    message = answer["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert message["content"] == client.complete()["choices"][0]["text"]
    broken = "{{ raise_exception('only one turn') }}"
    monkeypatch.setattr(running.site.texts._tokenizer, "chat_template", broken)
    status, answer = client.post("/v1/chat/completions", body)
    assert status == 400 and "template fails (only one turn)" in answer["error"]["message"]


def test_the_page_is_told_call_by_call(workdir, running, client):
    start, *calls, end = client.lines(gamma=0.7)
    one = by_generate(workdir, [PUZZLE], dial=0.7)[0]
    assert start == {"length": 16, "columns": 4, "box": 2}
    assert [line["call"] for line in calls] == [*range(1, one.nfe + 1)]
    written = {token["place"]: token["piece"] for line in calls for token in line["tokens"]}
    assert [written[i] for i in range(16)] == one.pieces == end["pieces"]
    assert end["calls"] == one.calls and end["text"] == one.text
    assert (end["given"], end["wrong"]) == (list(one.given), list(one.wrong))
    assert end["verdict"] == one.verdict
    # The head's own γ is told beside the one that was given.
    assert end["learned"] == pytest.approx(by_generate(workdir, [PUZZLE])[0].value, rel=1e-5)
    assert client.lines(model="base", gamma=1)[-1]["learned"] is None


def test_the_page_has_test_prompts_and_their_verdicts(running, client):
    example = running.site.examples[2]
    status, body = client.get("/api/examples/3")
    assert (status, body) == (200, {"prompt": example.prompt})
    end = client.lines(prompt=example.prompt, example=3)[-1]
    assert end["right"] == running.site.task.reward(example, end["text"]).correct
    assert client.lines(prompt=PUZZLE, example=3)[-1]["right"] is None
    assert client.get("/api/examples/17")[0] == client.get("/api/examples/0")[0] == 404


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "The prompt is empty."),
        ({"prompt": "12"}, "The prompt has 2 characters: a 4x4 board needs 16 digits"),
        ({"prompt": "<b>"}, "The prompt has 3 characters, with '<' among them"),
        ({"example": 99}, "example must be a whole number from 1 to 16"),
        ({"gamma": "x"}, "gamma must be a number"),
    ],
)
def test_mistakes_on_the_page(client, changes, message):
    (line,) = client.lines(**changes)
    assert message in line["error"]["message"]


def test_the_log_has_a_line_for_each_request(running, client):
    def lines():
        # The line of a request before this test may come late.
        return [line for line in running.log if "POST /v1/completions " in line]

    running.log.clear()
    client.complete(prompt=[PUZZLE] * 2, gamma=1e9)
    served.until(lines)
    assert " 200 in " in lines()[0]
    assert "trained, 2 completions, 32 tokens in 2 calls" in lines()[0]
    client.post("/v1/completions", {"model": "trained", "prompt": ""})
    served.until(lambda: lines()[1:])
    assert " 400 in " in lines()[1] and "prompt is empty" in lines()[1]


def test_half_a_request_harms_nobody(running, client):
    with socket.create_connection(("127.0.0.1", client.port)) as half:
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n")
        half.sendall(b"Content-Type: application/json\r\n\r\n{")
    with socket.create_connection(("127.0.0.1", client.port)) as noise:
        noise.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert b"400" in noise.recv(100)
    assert client.complete()["usage"]["completion_tokens"] == 16


def test_a_run_with_a_head_by_state_is_dialled_by_its_price(tmp_path):
    state = {"sampler.rule": "state", "sampler.slots": 1}
    path = served.make_run(tmp_path / "state", **state)
    with served.start(path, **state) as server:
        client = server.client
        choice = client.complete(price=0.01)["choices"][0]
        one = by_generate(path, [PUZZLE], dial=0.01, **state)[0]
        assert (choice["text"], choice["calls"]) == (one.text, one.nfe)
        assert client.complete()["choices"][0]["price"] == 1.0
        # The base has no such head, and decodes by another rule.
        assert client.complete(model="base", gamma=0)["usage"]["calls"] == 16
        body = {"model": "trained", "prompt": PUZZLE, "gamma": 1}
        status, answer = client.post("/v1/completions", body)
        assert status == 400 and "dialled by price" in answer["error"]["message"]


def test_openai_client(running):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{running.client.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["trained", "base"]
    made = client.completions.create(
        model="trained", prompt=PUZZLE, max_tokens=16, extra_body={"gamma": 1e9}
    )
    assert made.usage.calls == 1 and made.choices[0].gamma == pytest.approx(1e9)
    assert made.choices[0].text == running.client.complete(gamma=1e9)["choices"][0]["text"]
    with pytest.raises(openai.BadRequestError, match="from 1 to 16, not 17"):
        client.completions.create(model="trained", prompt=PUZZLE, max_tokens=17)


@pytest.mark.slow
def test_devices_share_a_model(workdir):
    mesh = {"mesh.data": 2, "mesh.fsdp": 2}
    with served.start(workdir, ("trained",), **mesh) as server:
        assert server.site.engine._batches["trained"].sizes == (4,)
        body = server.client.complete(prompt=puzzles(server, 3), gamma=0.7)
    expected = by_generate(workdir, puzzles(server, 3), dial=0.7)
    for choice, one in zip(body["choices"], expected, strict=True):
        assert (choice["text"], choice["calls"]) == (one.text, one.nfe)


def test_the_benchmark_counts_what_it_sent(running, client):
    args = serving.arguments([f"--url={client.url}", "--requests=3", "--repeats=1"])
    result = serving.measure(args, {})
    texts = puzzles(running, 3)
    calls = client.complete(prompt=texts)["usage"]["calls"]
    for way in ("one by one", "at once"):
        assert (result[way]["completion_tokens"], result[way]["calls"]) == (48, calls)
        assert result[way]["seconds"][0] > 0
    assert "at once is" in serving.report(result)
    with pytest.raises(UserError, match="Start the server first"):
        serving.measure(serving.arguments(["--url=http://127.0.0.1:9"]), {})


def test_no_request_compiles_anything(running, client):
    for fields in ({"gamma": 0.3}, {"scale": 2, "temperature": 0.7, "seed": 3}, {"prompt": "1"}):
        client.complete(**fields)
    for batch in running.site.engine._batches.values():
        assert batch._call._cache_size() == len(batch.sizes)
        assert batch._put._cache_size() == 1


def test_models_share_what_was_not_trained(tmp_path):
    """A run of the head alone holds one denoiser in memory, whichever models are served."""
    alone = {"mode": "sampler", "sampler.slots": 1}
    site = serve.make_site(config(**alone), served.make_run(tmp_path / "run", **alone), NAMES)
    models = [batch._model for batch in site.engine._batches.values()]
    denoisers, heads = ([model.params[x] for model in models] for x in ("denoiser", "threshold"))
    assert denoisers[0] is denoisers[1] and heads[0] is not heads[1]
    assert [model.learns for model in models] == [True, False]


def test_batch_sizes():
    assert batch_lib.batch_sizes(1) == (1,)
    assert batch_lib.batch_sizes(8) == (1, 8)
    assert batch_lib.batch_sizes(32) == (1, 8, 32)
    assert batch_lib.batch_sizes(16, 4) == (4, 16)

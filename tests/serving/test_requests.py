"""What requests in OpenAI's form ask for, and what is refused."""

import json

import pytest

from diffpo_jax.serving import requests
from diffpo_jax.serving.refusal import Refusal


def fault(value):
    return "must be small" if value > 100 else ""


OFFERS = {
    "trained": requests.Offer(requests.Dial("gamma", None, fault), 16, 0.0),
    "base": requests.Offer(requests.Dial("gamma", 0.1, fault), 16, 0.5),
    "priced": requests.Offer(requests.Dial("price", 1.0, fault), 16, 0.0),
}
LEAST = {"model": "base", "prompt": "12"}
CHAT = {"model": "base", "messages": [{"role": "user", "content": "12"}]}


def read(**changes):
    return requests.read_completion(LEAST | changes, OFFERS)


def read_chat(**changes):
    return requests.read_chat(CHAT | changes, OFFERS, lambda turns: json.dumps(turns))


def test_what_is_left_out_has_the_models_values():
    expected = requests.Wanted("base", ["12"], 1, 16, 0.5, None, (), 0.1, 1.0)
    assert read() == expected
    nothing = (
        "max_tokens",
        "n",
        "temperature",
        "seed",
        "stop",
        "gamma",
        "scale",
        "stream",
        "top_p",
    )
    assert read(**dict.fromkeys(nothing)) == expected
    neutral = {"stream": False, "top_p": 1.0, "best_of": 1, "echo": False, "logit_bias": {}}
    assert read(**neutral, presence_penalty=0, user="somebody", suffix="") == expected


def test_what_is_given():
    given = read(max_tokens=4, n=2, temperature=1, seed=7, stop="\n", gamma=3)
    assert given == requests.Wanted("base", ["12"], 2, 4, 1.0, 7, ("\n",), 3.0, 1.0)
    assert read(stop=["a", "b"]).stop == ("a", "b")
    assert read(model="priced", price=0.5).dial == 0.5


def test_the_learned_gamma_is_scaled_or_replaced():
    assert read(model="trained")[-2:] == (None, 1.0)
    assert read(model="trained", scale=0.5)[-2:] == (None, 0.5)
    assert read(model="trained", gamma=0)[-2:] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("1", ["1"]),
        (["1", "2"], ["1", "2"]),
        ([3, 4], [[3, 4]]),
        ([[3], [4, 5]], [[3], [4, 5]]),
    ],
)
def test_prompts_are_texts_or_token_ids(prompt, expected):
    assert read(prompt=prompt).prompts == expected


def test_turns_of_a_chat():
    assert json.loads(read_chat().prompts[0]) == [{"role": "user", "content": "12"}]
    parts = [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]
    messages = [
        {"role": "system", "content": "s", "name": "x"},
        {"role": "user", "content": parts},
    ]
    expected = [{"role": "system", "content": "s"}, {"role": "user", "content": "12"}]
    assert json.loads(read_chat(messages=messages).prompts[0]) == expected
    assert read_chat(max_completion_tokens=3).most == 3
    assert read_chat(max_tokens=4, logprobs=False, response_format={"type": "text"}).most == 4


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"model": "gpt"}, "model", 'There is no model "gpt"; use one of: trained, base, priced.'),
        ({"model": None}, "model", "model is missing"),
        ({"model": 3}, "model", "There is no model 3"),
        ({"prompt": ""}, "prompt", "prompt is empty: the model needs at least one token."),
        ({"prompt": []}, "prompt", "not empty"),
        ({"prompt": None}, "prompt", "must be a text"),
        ({"prompt": ["1", ""]}, "prompt[1]", "prompt[1] is empty"),
        ({"prompt": ["1", 2]}, "prompt[1]", "must be a text, not 2"),
        ({"prompt": {"a": 1}}, "prompt", "must be a text"),
        ({"prompt": "\ud800"}, "prompt", "surrogate"),
        ({"prompt": ["1"] * 513}, "prompt", "513 prompts are more than 512"),
        ({"prompt": ["1"] * 5, "n": 128}, "prompt", "send them in several requests"),
        ({"max_tokens": 17}, "max_tokens", "a whole number from 1 to 16, not 17"),
        ({"max_tokens": 0}, "max_tokens", "from 1 to 16, not 0"),
        ({"max_tokens": 2.5}, "max_tokens", "not 2.5"),
        ({"max_tokens": "8"}, "max_tokens", 'not "8"'),
        ({"max_tokens": True}, "max_tokens", "not true"),
        ({"n": 0}, "n", "from 1 to 128, not 0"),
        ({"n": 129}, "n", "from 1 to 128"),
        ({"temperature": -0.1}, "temperature", "at least 0 and at most 2, not -0.1"),
        ({"temperature": 2.1}, "temperature", "at most 2"),
        ({"temperature": "hot"}, "temperature", 'not "hot"'),
        ({"seed": -1}, "seed", "from 0 to 2147483647"),
        ({"stop": ""}, "stop", "stop must be a text"),
        ({"stop": [1]}, "stop", "stop must be a text"),
        ({"stop": ["x"] * 17}, "stop", "up to 16"),
        ({"gamma": -1}, "gamma", "gamma must be a number at least 0, not -1"),
        ({"gamma": "1"}, "gamma", "must be a number"),
        ({"gamma": 10**400}, "gamma", "must be a finite number"),
        ({"gamma": 101}, "gamma", "gamma=101 must be small."),
        ({"price": 1}, "price", "model 'base' is dialled by gamma"),
        ({"scale": 2}, "scale", "model 'base' has learned no gamma to scale: give gamma."),
        ({"model": "trained", "scale": 0}, "scale", "above 0"),
        ({"model": "trained", "scale": 2, "gamma": 1}, "scale", "which gamma replaces"),
        ({"stream": True}, "stream", "does not stream"),
        ({"logprobs": 0}, "logprobs", "gives no log-probabilities"),
        ({"echo": True}, "echo", "does not offer it"),
        ({"top_p": 0.9}, "top_p", "whole distribution"),
        ({"best_of": 3}, "best_of", "does not offer it"),
        ({"logit_bias": {"3": 1}}, "logit_bias", "does not offer it"),
        ({"gama": 1}, "gama", 'There is no field "gama".'),
        ({"messages": []}, "messages", 'There is no field "messages".'),
    ],
)
def test_refused(changes, param, message):
    with pytest.raises(Refusal) as error:
        read(**changes)
    assert message in str(error.value)
    body = error.value.body()["error"]
    assert (body["param"], body["type"]) == (param, "invalid_request_error")
    assert error.value.status == 400
    json.dumps(body)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": []}, "not empty"),
        ({"messages": "hello"}, "must be a list of messages"),
        ({"messages": ["hello"]}, "messages[0] must be an object"),
        ({"messages": [{"role": "user"}]}, "messages[0].content must be a text"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content is empty"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "a part that is no text",
        ),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "must not be the assistant's own"),
        ({"max_completion_tokens": 99}, "max_completion_tokens must be a whole number"),
        ({"tools": [{"type": "function"}]}, "tools: this server does not offer it"),
        ({"logprobs": True}, "gives no log-probabilities"),
        ({"prompt": "1"}, 'no field "prompt"'),
    ],
)
def test_refused_chats(changes, message):
    with pytest.raises(Refusal) as error:
        read_chat(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"3", b'"x"', b"\xff", b'{"n": NaN}', b'{"n": Infinity}', b"[" * 100_000],
)
def test_a_body_that_is_no_json_object(text):
    with pytest.raises(Refusal):
        requests.parse(text)


def test_one_model_need_not_be_named():
    only = {"base": OFFERS["base"]}
    assert requests.read_completion({"prompt": "1"}, only).model == "base"

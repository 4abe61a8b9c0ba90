import pytest

from diffpo_jax.tasks.answers import special_tokens


@pytest.mark.parametrize(
    ("text", "stripped", "before"),
    [
        ("5", "5", "5"),
        ("5<|eot_id|>", "5", "5"),
        ("5<|eot_id|><|endoftext|><|endoftext|>", "5", "5"),
        ("5<|im_end|>6", "56", "5"),
        ("1<|mask|>8", "18", "1<|mask|>8"),
        ("<|start_header_id|>a", "a", "<|start_header_id|>a"),
        ("a <| b |> c", "a <| b |> c", "a <| b |> c"),
        ("", "", ""),
    ],
)
def test_special_tokens_by_hand(text, stripped, before):
    assert special_tokens.strip(text) == stripped
    assert special_tokens.before_end(text) == before

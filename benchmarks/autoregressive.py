"""Trains a tiny Qwen3 that writes word problems from left to right, to try its conversion on.

    python benchmarks/autoregressive.py --out=runs/tiny-qwen3

writes two checkpoints as transformers saves them, OUT/ar and, before any training, OUT/random, with
a tokenizer of the class that Qwen3 has; and problems in GSM8K's form, OUT/train.jsonl and
OUT/test.jsonl, none of which the network has seen.  docs/models.md has what was measured with them.
It needs the extra torch, and takes a minute.
"""

import argparse
import json
import pathlib
import random
import time

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

NAMES = ["Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jonas"]
THINGS = ["apples", "pears", "books", "coins", "stamps", "marbles", "cards", "shells"]
# Question, sign and solution.
KINDS = [
    (
        "{a} has {x} {t}. {b} gives {a} {y} more. How many {t} does {a} have now?",
        "+",
        "{a} has {x} + {y} = <<{x}+{y}={z}>>{z} {t}.",
    ),
    (
        "{a} had {x} {t} and lost {y} of them. How many {t} are left?",
        "-",
        "There are {x} - {y} = <<{x}-{y}={z}>>{z} {t} left.",
    ),
    (
        "{a} buys {x} {t} in the morning and {y} {t} in the evening. How many {t} is that?",
        "+",
        "That is {x} + {y} = <<{x}+{y}={z}>>{z} {t}.",
    ),
]
END, TURN = "<|endoftext|>", "<|im_end|>"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


def draw_problem(draw: random.Random) -> dict[str, str]:
    question, sign, solution = draw.choice(KINDS)
    a, b = draw.sample(NAMES, 2)
    x, y = draw.randint(2, 20), draw.randint(1, 9)
    if sign == "-":
        x, y = max(x, y) + 1, min(x, y)
    z = x + y if sign == "+" else x - y
    fields = {"a": a, "b": b, "t": draw.choice(THINGS), "x": x, "y": y, "z": z}
    answer = f"{solution}\n#### {{z}}".format(**fields)
    return {"question": question.format(**fields), "answer": answer}


def draw_problems(seed: int, count: int, seen: set[str]) -> list[dict[str, str]]:
    """Problems whose questions are not in `seen`, to which they are added."""
    draw, found = random.Random(seed), []
    while len(found) < count:
        new = draw_problem(draw)
        if new["question"] not in seen:
            seen.add(new["question"])
            found.append(new)
    return found


def make_tokenizer(texts: list[str]) -> transformers.PreTrainedTokenizerFast:
    """Byte pairs of these texts, with a token for each digit, as Qwen has."""
    made = tokenizers.Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    state = json.loads(made.to_str())["model"]
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=state["vocab"],
        merges=[tuple(pair) for pair in state["merges"]],
        unk_token=None,
        bos_token=None,
        eos_token=TURN,
        pad_token=END,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [END, "<|im_start|>", TURN]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def train(model: torch.nn.Module, rows: torch.Tensor, real: torch.Tensor, steps: int) -> float:
    """Trains to predict each real token from those before it; returns the last loss in nats."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, step / 50) * (1 - step / steps)
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(rows), (32,), generator=generator)
        tokens, mask = rows[chosen], real[chosen][:, 1:]
        logits = model(tokens).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits[mask], tokens[:, 1:][mask])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--problems", type=int, default=8_000, help="that the network sees")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    # 1. Problems: for the test, for SFT (with 512 for validation), and for the network.
    seen: set[str] = set()
    parts = {"test": draw_problems(1, 200, seen), "train": draw_problems(2, 1_512, seen)}
    for name, part in parts.items():
        lines = "".join(json.dumps(problem) + "\n" for problem in part)
        (args.out / f"{name}.jsonl").write_text(lines)
    problems = draw_problems(3, args.problems, seen)
    texts = [f"{problem['question']}\n{problem['answer']}" for problem in problems]
    tokenizer = make_tokenizer(texts)
    # 2. The network, before and after training.
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=48,
        tie_word_embeddings=True,
        rope_theta=1e6,
        max_position_embeddings=512,
    )
    model = transformers.Qwen3ForCausalLM(config)
    end, turn = tokenizer.convert_tokens_to_ids([END, TURN])
    encoded = [[*ids, turn, end] for ids in tokenizer(texts)["input_ids"]]
    rows = torch.full((len(encoded), max(map(len, encoded))), end)
    real = torch.zeros(rows.shape, dtype=torch.bool)
    for i, ids in enumerate(encoded):
        rows[i, : len(ids)], real[i, : len(ids)] = torch.tensor(ids), True
    for name in ("random", "ar"):
        if name == "ar":
            began = time.perf_counter()
            loss = train(model, rows, real, args.steps)
            print(f"{args.steps} steps in {time.perf_counter() - began:.0f} s, loss {loss:.3f}")
        model.save_pretrained(args.out / name)
        tokenizer.save_pretrained(args.out / name)
    # 3. What it writes.
    right = 0
    for problem in parts["test"][:30]:
        prompt = tokenizer(problem["question"] + "\n", return_tensors="pt")["input_ids"]
        out = model.generate(
            prompt, max_new_tokens=40, do_sample=False, eos_token_id=turn, pad_token_id=end
        )
        text = tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)
        right += text.strip() == problem["answer"]
    print(f"{right} of 30 solutions written as they are; the mask token's id is {len(tokenizer)}")


if __name__ == "__main__":
    main()

"""Sampled answers: drawn from the model's own distribution, by a seed, in batches of any size."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare

from src.models import spelling_model as spelling
from src.models.decoding import GREEDY, Decoding, DecodingError
from src.models.generation import drawn_tokens, greedy_answers, sampled_answers
from src.models.prompt_format import raw_format
from src.training import scoring, suites
from src.training.evaluate import evaluate
from src.training.rows import Row
from tests.helpers import tiny

LONG = "<human>: umbrella velvet window\n<assistant>:"
SHORT = "<human>: tea"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sampled")
    tiny.save_model(place / "gpt2", "gpt2", 32)
    tiny.data(place / "words")
    return place


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    vocabulary = spelling.load_vocabulary(str(folder / "gpt2"))
    model = spelling.load_base(
        str(folder / "gpt2"), vocabulary, revision=None, load_in_4bit=False, max_length=64,
        precision="fp32", backend="peft", gradient_checkpointing=False, seed=0,
    )  # fmt: skip
    return model, vocabulary.tokenizer


def sampled(loaded: tuple[Any, Any], prompts: list[list[int]], decoding: Decoding, tokens: int):
    """Tokens (prompts, tokens) with no end token, so that each answer has all of them."""
    model, tokenizer = loaded
    return sampled_answers(
        model, prompts, decoding.draws(range(len(prompts)), 0, tokens), decoding=decoding,
        max_new_tokens=tokens, pad_token_id=tokenizer.pad_token_id, eos_token_id=10**6,
    )  # fmt: skip


def probabilities(model: Any, ids: list[int], temperature: float) -> np.ndarray:
    """The softmax of the logits after some tokens, read without padding."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].double().numpy() / temperature
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def p_value(counts: np.ndarray, shares: np.ndarray) -> float:
    """Of the chi-square test that counts are drawn from shares; rare ones are taken together."""
    expected = shares / shares.sum() * counts.sum()
    rare = expected < 5
    pooled = [np.append(each[~rare], each[rare].sum()) for each in (counts, expected)]
    if pooled[1][-1] == 0:
        pooled = [each[:-1] for each in pooled]
    return float(chisquare(*pooled).pvalue)


def test_first_letters_are_drawn_from_the_softmax(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    long, short = (tokenizer(text)["input_ids"] for text in (LONG, SHORT))
    # Every other row is padded, which its distribution must not show.
    prompts = [long, short] * 3000
    answers = sampled(loaded, prompts, Decoding(temperature=3.0, seed=1), 1)
    for first, prompt in enumerate((long, short)):
        drawn = [answer[0] for answer in answers[first::2]]
        counts = np.bincount(drawn, minlength=320)
        assert (counts > 0).sum() > 20  # more than one or two tokens are likely
        assert p_value(counts, probabilities(model, prompt, 3.0)) > 0.001
        assert p_value(counts, probabilities(model, prompt, 2.0)) < 1e-6


def test_each_token_has_its_own_draw(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    prompt = tokenizer(SHORT)["input_ids"]
    answers = sampled(loaded, [prompt] * 3000, Decoding(temperature=2.0, top_k=3, seed=2), 2)

    def three(ids: list[int]) -> dict[int, float]:
        shares = probabilities(model, ids, 2.0)
        best = np.argsort(-shares)[:3]
        return dict(zip(best.tolist(), (shares[best] / shares[best].sum()).tolist(), strict=True))

    pairs = {
        (a, b): p * q
        for a, p in three(prompt).items()
        for b, q in three([*prompt, a]).items()
    }  # fmt: skip
    counts = pd.Series([tuple(answer) for answer in answers]).value_counts()
    assert set(counts.index) <= set(pairs)
    counted = np.array([counts.get(pair, 0) for pair in pairs])
    assert p_value(counted, np.array(list(pairs.values()))) > 0.001


@pytest.mark.parametrize(
    "decoding",
    [Decoding(temperature=0.7), Decoding(temperature=1.3, top_k=7),
     Decoding(temperature=1, top_p=0.8), Decoding(temperature=2, top_k=20, top_p=0.5)],
)  # fmt: skip
def test_filters_are_those_of_transformers(decoding: Decoding) -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = 3 * torch.randn(3, 50, generator=torch.Generator().manual_seed(4))
    scores = TemperatureLogitsWarper(float(decoding.temperature))(None, logits)
    if decoding.top_k:
        scores = TopKLogitsWarper(decoding.top_k)(None, scores)
    if decoding.top_p < 1:
        scores = TopPLogitsWarper(decoding.top_p)(None, scores)
    expected = scores.double().softmax(-1)
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    for row, shares in zip(logits, expected, strict=True):
        drawn = drawn_tokens(row.expand(len(grid), -1), grid, decoding)
        found = torch.bincount(drawn, minlength=50) / len(grid)
        assert (found - shares).abs().max() <= 1.01 / len(grid)
        assert not found[shares == 0].any()


def test_of_equal_logits_top_k_1_takes_the_one_that_greedy_takes() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    for draw in (0.0, 0.5, 1 - 2**-53):
        place = torch.tensor([draw], dtype=torch.float64)
        for decoding in (
            Decoding(temperature=1, top_k=1),
            Decoding(temperature=1, top_p=1e-9),
        ):
            assert drawn_tokens(logits, place, decoding).tolist() == [int(logits.argmax())]
        # No draw falls on a token without probability, and no temperature is too small.
        last = drawn_tokens(logits, place, Decoding(temperature=1e-300))
        assert last.tolist() in ([1], [2])


def test_logits_that_are_no_numbers_are_answered_like_any_others() -> None:
    nothing = torch.full((1, 4), torch.nan)
    draw = torch.tensor([0.5], dtype=torch.float64)
    assert 0 <= int(drawn_tokens(nothing, draw, Decoding(temperature=1))) < 4


def rows_of(tokenizer: Any) -> list[Row]:
    return scoring.encode(tokenizer, tiny.frame(tiny.WORDS), raw_format("<human>: {question}"))


def score(loaded: tuple[Any, Any], decoding: Decoding, batch_size: int = 8) -> pd.DataFrame:
    model, tokenizer = loaded
    found = scoring.score(
        model, tokenizer, rows_of(tokenizer), batch_size=batch_size, max_new_tokens=6,
        precision="fp32", decoding=decoding,
    )  # fmt: skip
    assert found is not None
    return found[1].to_pandas()


@pytest.mark.parametrize(
    "decoding",
    [Decoding(temperature=1.5, top_k=1), Decoding(temperature=1.5, top_p=1e-6),
     Decoding(temperature=1e-6)],
)  # fmt: skip
def test_one_token_to_draw_from_is_greedy(loaded: tuple[Any, Any], decoding: Decoding) -> None:
    found = score(loaded, decoding)
    assert (found.pop("sample") == 0).all()
    pd.testing.assert_frame_equal(found, score(loaded, GREEDY))
    assert (score(loaded, Decoding(temperature=1.5))["predicted"] != found["predicted"]).any()


def test_an_answer_depends_on_the_seed_and_not_on_its_batch(loaded: tuple[Any, Any]) -> None:
    decoding = Decoding(temperature=1.5, num_samples=3, seed=5)
    found = score(loaded, decoding)
    for size in (1, 3, 64):
        pd.testing.assert_frame_equal(score(loaded, decoding, size), found, rtol=1e-4)
    # A row's answers follow each other; the first is the one that is drawn alone.
    assert found["sample"].tolist() == [0, 1, 2] * len(tiny.WORDS)
    assert found["word"].tolist() == [word for word in tiny.WORDS for _ in range(3)]
    alone = score(loaded, Decoding(temperature=1.5, seed=5))["predicted"]
    assert found.loc[found["sample"] == 0, "predicted"].tolist() == alone.tolist()
    of_word = found.groupby("word")["predicted"].nunique()
    assert (of_word > 1).any()  # samples differ
    other = score(loaded, Decoding(temperature=1.5, seed=6))["predicted"]
    assert (other != alone).any()


def test_a_draw_touches_no_random_state_and_equal_prompts_differ(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    before = torch.get_rng_state()
    prompt = tokenizer(SHORT)["input_ids"]
    answers = sampled(loaded, [prompt] * 20, Decoding(temperature=3.0), 3)
    assert len({tuple(answer) for answer in answers}) > 10
    assert torch.equal(torch.get_rng_state(), before)
    greedy = greedy_answers(model, [prompt], max_new_tokens=3, pad_token_id=1, eos_token_id=0)
    assert len(greedy) == 1


def test_means_are_over_all_answers(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    rows = rows_of(tokenizer)
    options: dict[str, Any] = {"batch_size": 8, "max_new_tokens": 2, "precision": "fp32"}
    greedy = scoring.score(model, tokenizer, rows, **options)
    many = scoring.score(
        model, tokenizer, rows, **options, decoding=Decoding(temperature=2, num_samples=4)
    )
    assert greedy is not None and many is not None
    values, table = many
    assert len(table) == 4 * len(rows)
    assert values["edit_distance"] == pytest.approx(np.mean(table["edit_distance"].to_pylist()))
    # Those of the true answers do not depend on the decoding.
    for name in ("loss", "token_accuracy"):
        assert values[name] == pytest.approx(greedy[0][name])


def test_an_adapter_and_its_base_are_sampled_alike(folder: Path) -> None:
    config = tiny.config_of(folder, **{"evaluation.max_new_tokens": 4})
    suite = suites.Suite("own", tiny.frame(tiny.WORDS[:4])).marked(["banana"], keep=True)
    decoding = Decoding(temperature=1.5, num_samples=2)
    _, frame = evaluate(config, None, suite, progress=lambda done: None, decoding=decoding)
    assert frame["seen"].tolist() == [False, False, True, True, *[False] * 4]
    general = suites.load("general")
    with pytest.raises(DecodingError, match="general is running text"):
        evaluate(config, None, general, progress=lambda done: None, decoding=decoding)

"""Pretrain checkpoints/base/spelltune-tiny, the base model that ships.

`python -m scripts.pretrain_base lists` writes the words that it may be trained on (this needs the
package wordfreq); `... train` trains the tokenizer and the model from that file alone (minutes on a
GPU).

A GPT-2 of 3.5M parameters is trained on lines of words: sampled by frequency; letter by letter; and
next to a copy that is tokenized differently or misspelled. No validation or test word of the
built-in tasks, and no misspelling of one, is in the list, so none is in the data in any form.
"""

import argparse
import gzip
import json
import math
import multiprocessing
import os
import random
import sys
import time
from itertools import accumulate
from pathlib import Path

from src.paths import BASE_MODELS
from src.tasks.slips import slipped

FOLDER = BASE_MODELS / "spelltune-tiny"
WORDS_FILE = "pretraining_words.txt.gz"
HELD_OUT_FILE = "held_out_words.txt.gz"

WORDS, VOCABULARY = 56_000, 1024
WIDTH, LAYERS, POSITIONS = 256, 4, 128
BATCH, LENGTH, PEAK_RATE = 256, 64, 2e-3
END, PAD = "<|endoftext|>", "<|pad|>"


# --- the words ------------------------------------------------------------------------------------


def held_out() -> set[str]:
    """Validation and test words of the built-in tasks and all misspellings of them."""
    from src.tasks.words import misspellings, split_of

    pairs = [(wrong, word) for wrong, word in misspellings() if split_of(word) != "train"]
    return {text for pair in pairs for text in pair}


def write_lists(folder: Path) -> None:
    """Write `word weight` lines, frequent English words and the tasks' training words, and the
    words that must not stand in the data."""
    from wordfreq import iter_wordlist, word_frequency

    from src.tasks.words import target_words

    banned = held_out()
    frequent = (w for w in iter_wordlist("en") if w.isascii() and w.isalpha() and w.islower())
    kept = {word for word, _ in zip(frequent, range(WORDS), strict=False)} | set(target_words())
    lines = [f"{w} {word_frequency(w, 'en') + 1e-8:.3g}\n" for w in sorted(kept - banned)]
    folder.mkdir(parents=True, exist_ok=True)
    texts = {WORDS_FILE: "".join(lines), HELD_OUT_FILE: "\n".join(sorted(banned)) + "\n"}
    for name, text in texts.items():
        # No time stamp: the same words make the same file.
        (folder / name).write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(lines):,} words, {len(banned):,} held out with their misspellings")


def read_lists(folder: Path) -> dict[str, float]:
    """{word: weight} of every word that the model may see."""
    with gzip.open(folder / WORDS_FILE, "rt") as file:
        return {word: float(weight) for word, weight in (line.split() for line in file)}


# --- the lines ------------------------------------------------------------------------------------


class Lines:
    """Token rows made from the listed words alone."""

    def __init__(self, folder: Path, seed: int, slips: float):
        from tokenizers import Tokenizer

        listed = read_lists(folder)
        self.words, self.weights = list(listed), list(accumulate(listed.values()))
        held_out = gzip.decompress((folder / HELD_OUT_FILE).read_bytes()).decode()
        self.banned = frozenset(held_out.split())
        self.rng = random.Random(seed)
        # What a row holds, and how often. The rest beside slips keeps its proportions.
        kinds = {self.by_frequency: 0.2, self.letter_by_letter: 0.3, self.cut_anew: 0.5}
        self.kinds = [*kinds, self.with_slip]
        self.shares = [*(share * (1 - slips) for share in kinds.values()), slips]
        file = str(folder / "tokenizer.json")
        # BPE dropout cuts a word in other pieces each time: so the letters of a piece are learnt.
        self.plain, self.cut, self.letters = (Tokenizer.from_file(file) for _ in range(3))
        self.cut.model.dropout, self.letters.model.dropout = 0.5, 1.0
        self.newline = self.plain.encode("\n").ids
        self.end = self.newline

    def row(self) -> list[int]:
        """LENGTH token ids, padded with PAD (0). No word is cut off: its head may be held out."""
        (kind,) = self.rng.choices(self.kinds, self.shares)
        # A line ends with one or the other in all of a row. A base that never saw END could hardly
        # learn to stop: an adapter does not change the token's embedding.
        self.end = self.rng.choice((self.newline, [1]))
        ids: list[int] = []
        while len(ids) + len(piece := kind()) <= LENGTH:
            ids += piece
        return ids + [0] * (LENGTH - len(ids))

    def by_frequency(self) -> list[int]:
        (word,) = self.rng.choices(self.words, cum_weights=self.weights)
        return self.plain.encode(" " + word).ids

    def letter_by_letter(self) -> list[int]:
        return self.plain.encode(" " + " ".join(self.rng.choice(self.words))).ids + self.end

    def cut_anew(self) -> list[int]:
        """A word whole and, before or after it, in other pieces."""
        rng, word = self.rng, self.rng.choice(self.words)
        whole = self.plain.encode(" " + word).ids
        again = rng.choice((self.cut, self.letters)).encode(rng.choice((" ", "")) + word).ids
        return (whole + again if rng.random() < 0.5 else again + whole) + self.end

    def with_slip(self) -> list[int]:
        """A word with a slip, and then the word: so the model learns to go back from it."""
        word = self.rng.choice(self.words)
        slip = slipped(word, self.rng)
        line = f" {word}" if slip in self.banned else f" {slip} {word}"
        return self.plain.encode(line).ids + self.end


def make_rows(job: tuple[Path, int, float, int]) -> list[list[int]]:
    folder, seed, slips, count = job
    lines = Lines(folder, seed, slips)
    return [lines.row() for _ in range(count)]


# --- the model ------------------------------------------------------------------------------------


def train_tokenizer(folder: Path, seed: int) -> None:
    """A byte-level BPE on words drawn by frequency; PAD is 0 and END is 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    listed = read_lists(folder)
    drawn = random.Random(seed).choices(list(listed), list(listed.values()), k=200_000)
    lines = [" ".join(drawn[i : i + 20]) for i in range(0, len(drawn), 20)]
    # The words of the prompts, so that a prompt is a few tokens long.
    prompts = ["<human>: Spell the word:\n<assistant>:", "<human>: Correct the spelling: \n"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines + prompts * 100, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def pretrain(folder: Path, *, seconds: float, slips: float, seed: int, rows: int) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    device = "cuda" if torch.cuda.is_available() else "cpu"
    random.seed(seed)
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    train_tokenizer(folder, seed)
    jobs = [(folder, seed * 1000 + i, slips, 5000) for i in range(max(1, rows // 5000))]
    with multiprocessing.get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        made = [torch.tensor(part, dtype=torch.int16) for part in pool.imap(make_rows, jobs)]
    data = torch.cat(made).to(device)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=WIDTH // 64,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
        # Dropout lives in a base model's own config and would act in fine-tuning too.
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_RATE, weight_decay=0.05, betas=(0.9, 0.98)
    )

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        return model(batch, labels=batch.masked_fill(batch == 0, -100)).loss

    if device == "cuda":
        loss_of = torch.compile(loss_of, dynamic=False)
    start, step, loss = time.time(), 0, None
    shown = 0.0
    while (done := (time.time() - start) / seconds) < 1:
        rate = PEAK_RATE * min(1, (step + 1) / 300) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = data[torch.randint(0, len(data), (BATCH,), device=device)].long()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_of(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step == 5:  # compiling is not training
            start = time.time()
        if done > shown:
            shown += 0.1
            print(f"{done:4.0%} step {step:,} loss {loss.item():.3f}", flush=True)
    model.half().save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token=END, eos_token=END, pad_token=PAD
    ).save_pretrained(folder)
    recipe = {
        "steps": step,
        "seconds": round(time.time() - start),
        "rows": len(data),
        "slips": slips,
        "seed": seed,
        "final_loss": round(loss.item(), 4),
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "torch": torch.__version__,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    print(recipe)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=("lists", "train"))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--seconds", type=float, default=300, help="of training, without set-up")
    parser.add_argument("--slips", type=float, default=0.65, help="share of rows of slips")
    parser.add_argument("--rows", type=int, default=1_500_000, help="rows made before training")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    if a.stage == "lists":
        write_lists(a.folder)
    elif not (a.folder / WORDS_FILE).exists():
        sys.exit(f"no {a.folder / WORDS_FILE}: run the stage `lists` first")
    else:
        pretrain(a.folder, seconds=a.seconds, slips=a.slips, seed=a.seed, rows=a.rows)


if __name__ == "__main__":
    main()

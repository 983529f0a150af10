"""Misspellings made by rule, with the slips that people make"""

import random
from string import ascii_lowercase

# Spellings that sound alike or are confused for another reason, each read both ways.
CONFUSED = """
    ie/ei a/e e/i a/o o/u i/y ea/ee ai/a ou/o au/o er/re el/le al/le ant/ent ance/ence able/ible
    c/s c/k k/ck s/z s/ss l/ll t/tt n/nn m/mm p/pp r/rr f/ff f/ph g/j tion/sion cial/tial w/wh
    e/ie ly/lly y/ie th/t gh/g kn/n sc/s qu/k x/cs
"""
PAIRS = [pair.split("/") for pair in CONFUSED.split()]


def slipped(word: str, rng: random.Random) -> str:
    """The word with one or, seldom, two slips as people make them: a letter left out, doubled,
    swapped, hit beside, or a sound spelled another way."""
    for _ in range(1 if rng.random() < 0.75 else 2):
        i = rng.randrange(len(word))
        kind = rng.random()
        if kind < 0.4:
            known = [p for p in PAIRS if p[0] in word or p[1] in word]
            if known:
                here, there = rng.choice(known)
                if here not in word or (there in word and rng.random() < 0.5):
                    here, there = there, here
                spots = [k for k in range(len(word)) if word.startswith(here, k)]
                at = rng.choice(spots)
                word = word[:at] + there + word[at + len(here) :]
        elif kind < 0.6 and len(word) > 3:
            word = word[:i] + word[i + 1 :]
        elif kind < 0.7:
            word = word[:i] + word[i] + word[i:]
        elif kind < 0.85 and i + 1 < len(word):
            word = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        elif kind < 0.93:
            word = word[:i] + rng.choice(ascii_lowercase) + word[i:]
        else:
            word = word[:i] + rng.choice(ascii_lowercase) + word[i + 1 :]
    return word

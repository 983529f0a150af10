"""YAML that people write: what stands twice, what a number was written as, and limits."""

import time
from pathlib import Path

import pytest

from src.config import ConfigError, dump_yaml, load_config, load_flow, parse_yaml
from src.config.yaml_text import MAX_BYTES, MAX_DEPTH, YamlError, load_yaml
from src.sweeps.file import load_sweep, parse_sweep
from tests.helpers.sweeps import TINY

TWICE = {
    "a section": ("a: 1\nlora:\n  r: 2\nlora: {alpha: 1}\n", "line 4: 'lora'", 2),
    "a setting": ("lora:\n  r: 4\n  alpha: 8\n  r: 8\n", "line 4: 'r'", 2),
    "in one line": ("lora: {r: 4, r: 8}\n", "line 1: 'r'", 1),
    "in quotes": ('lora: 1\n"lora": 2\n', "line 2: 'lora'", 1),
    "a number": ("1: a\n1: b\n", "line 2: '1'", 1),
    "beneath a list": ("space:\n  - a: 1\n    a: 2\n", "line 3: 'a'", 2),
    "two merges": ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", "line 4: '<<'", 3),
}  # fmt: skip


@pytest.mark.parametrize(("text", "where", "first"), TWICE.values(), ids=TWICE)
def test_a_key_that_stands_twice_is_refused_with_its_lines(
    text: str, where: str, first: int, tmp_path: Path
) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    told = str(refused.value)
    assert told.startswith(f"{file}, {where} stands twice, first in line {first};")
    assert parse_yaml(text, file, unique=False)  # what was launched before is still read


def test_who_parses_a_text_again_has_a_copy_of_their_own() -> None:
    parse_yaml("lora: {r: 4, on: [q, v]}", "file")["lora"]["on"].append("k")
    assert parse_yaml("lora: {r: 4, on: [q, v]}", "file") == {"lora": {"r": 4, "on": ["q", "v"]}}


def test_an_axis_of_a_sweep_that_stands_twice_is_refused() -> None:
    text = TINY.read_text()
    line = next(line for line in text.splitlines() if "lora.r:" in line)
    with pytest.raises(ConfigError, match=r"tiny.yaml, line \d+: 'lora.r' stands twice"):
        parse_sweep(text.replace(line, f"{line}\n{line}"), "tiny.yaml")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("experiment_name: a\nname: b\n", "name"),
        ("lora_config: {r: 4}\nlora: {r: 8}\n", "lora"),
        ("training_config: {warmup_steps: 4}\nscheduler: {warmup_steps: 8}\n",
         "scheduler.warmup_steps"),
    ],
)  # fmt: skip
def test_the_older_and_the_newer_name_of_a_setting_stand_not_together(
    text: str, field: str, tmp_path: Path
) -> None:
    file = tmp_path / "both.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="is given twice") as refused:
        load_config(file)
    assert list(refused.value.problems) == [field]


def test_one_setting_in_two_notations_is_refused() -> None:
    text = "{name: s, method: grid, space: {lora.r: [2]}, base: {overrides: %s}}"
    with pytest.raises(ConfigError, match=r"base.overrides.lora.r: is given twice"):
        parse_sweep(text % "{lora.r: 4, lora: {r: 8}}", "s.yaml")
    both = parse_sweep(text % "{lora.alpha: 4, lora: {dropout: 0.5}}", "s.yaml")
    assert both.base.overrides == {"lora.alpha": 4.0, "lora.dropout": 0.5}


def test_what_aliases_repeat_stands_once(tmp_path: Path) -> None:
    file = tmp_path / "merge.yaml"
    file.write_text("lora: &l {r: 4, alpha: 8}\noptimizer: {}\nscheduler: {}\n")
    assert load_config(file, preset="tiny-spell").lora.r == 4
    text = "x: &x {a: 1}\ny: &y {<<: *x, a: 2}\nz: {<<: *y}\n"
    assert load_yaml(text) == {"x": {"a": 1}, "y": {"a": 2}, "z": {"a": 2}}


WRITTEN = ["7", "007", "7.10", "1e5", "1:30", "2026-01-02", "0x1F", "1_000", "true", "off", "+5"]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_text_setting_takes_what_stands_in_the_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"name: {text}\ntracking: {{project: {text}, tags: [{text}, b]}}\n"
                    f"data: {{revision: {text}}}\n")  # fmt: skip
    config = load_config(file, preset="tiny-spell")
    assert (config.name, config.tracking.project, config.data.revision) == (text,) * 3
    assert config.tracking.tags == [text, "b"]
    sweep = parse_sweep(
        f"{{name: {text.replace(':', '-').replace('+', '')}, method: grid, base: {{overrides: "
        f"{{tracking.project: {text}}}}}, space: {{data.revision: [{text}, null]}}}}", "s.yaml"
    )  # fmt: skip
    assert sweep.base.overrides == {"tracking.project": text}
    assert sweep.space["data.revision"].values == [text, None]


@pytest.mark.parametrize("number", ["1e-4", "0.0001", "1.0e-4", ".0001"])
def test_a_number_is_read_by_its_setting(number: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"training: {{learning_rate: {number}, seed: 007}}\nlora: {{alpha: 8}}\n")
    config = load_config(file, preset="tiny-spell")
    assert (config.training.learning_rate, config.training.seed) == (1e-4, 7)
    assert type(config.lora.alpha) is float and type(config.training.seed) is int
    assert config.model.load_in_4bit is False


def test_what_is_read_is_written_again_as_it_stood() -> None:
    text = "a: 7.10\nb: [1e-4, true, null, off, 2026-01-02]\nc: '7'\nd: {low: 1, high: 2.50}\n"
    read = load_yaml(text)
    assert load_yaml(dump_yaml(read)) == read
    assert "7.10" in dump_yaml(read) and "2.50" in dump_yaml(read) and "'7'" in dump_yaml(read)
    assert load_flow("4, 8") == [4, 8] and load_flow("low: 1, high: 2") == {"low": 1, "high": 2}
    for cut in ("4, 8] # 16", "4, 8 # 16", "[" * 900, "a: 1, a: 2", "4}"):
        with pytest.raises(YamlError):
            load_flow(cut)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


UNREADABLE = {
    "a bomb of lists": (bomb(12), "those that aliases repeat"),
    "a bomb of mappings": (
        "a: &a {x: 1}\n" + "\n".join(f"b{n}: &b{n} {{p: *{'a' if not n else f'b{n - 1}'}, "
                                     f"q: *{'a' if not n else f'b{n - 1}'}}}" for n in range(30)),
        "those that aliases repeat"),
    "a circle": ("a: &a [*a]", "line 1: an alias stands within what it repeats"),
    "depth": ("[" * 900, f"line 1: more than {MAX_DEPTH} lists or mappings in each other"),
    "depth of blocks": ("".join("  " * n + "a:\n" for n in range(900)), "in each other"),
    "size": ("a: " + "x" * MAX_BYTES, "of text"),
    "no key": ("? [a]\n: 1\n", "line 1: a key must be a word"),
    "an empty key": ("~: 1\n", "line 1: a key must be a word"),
    "a control character": ("a: 1\nb: \x07\n", r"line 2: the character '\x07'"),
    "an unknown tag": ("a: !!python/name:os.system x", "line 1: could not determine"),
    "a tag that does not fit": ("a: 1\nb: !!int x", ""),
    "a tab": ("a:\n\t- b\n", "line 2: "),
}  # fmt: skip


@pytest.mark.parametrize(("text", "told"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_refused_at_once(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    began = time.process_time()
    for read in (load_config, load_sweep):
        with pytest.raises(ConfigError) as refused:
            read(file)
        assert told.replace("of text", "bytes") in str(refused.value) and "odd.yaml" in str(
            refused.value
        )
        assert len(str(refused.value)) < 400 + len(str(file))
    assert time.process_time() - began < 60  # of an hour and more memory than there is


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lora.r: 4\n", "lora.r: stands in its section in a file: `lora: {r: 4}`"),
        ("lora:\n", "lora: has nothing beneath it; write its settings there, as in `lora: {r: "),
        ("lora: 4\n", "lora: is a section, which holds settings, as in `lora: {r: "),
        ("lora: [4]\n", "lora: is a section"),
        ("tracking: {tags: first}\n", "takes a list, such as [a, b]; got 'first'"),
        ("data: {path: ''}\n", "data.path: is empty; write null for none"),
        ("lora_r: 4\n", "lora_r: no such setting; did you mean"),
        ("lora: {r: '" + "9" * 5000 + "'}\n", "(5,002 characters)"),
    ],
)
def test_a_wrong_file_is_told_in_plain_words(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_config(file, preset="tiny-spell")
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"name: a\nlora: {r: 4}\ndata: {path: caf\xe9.csv}\n")
    with pytest.raises(ConfigError, match="line 3 is not UTF-8"):
        load_config(file)

"""A merged model as a GGUF file: read back it is the same model, tokenizer and prompts."""

from pathlib import Path
from typing import Any

import gguf as library
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from src.models.gguf import export, ollama
from src.models.gguf.header import read_header, read_vocabulary
from src.models.gguf.vocabulary import CannotExport, tokenizer_keys
from src.models.prompt_format import PromptFormat, raw_format
from src.models.spelling_model import load_vocabulary
from src.training.merge import export_gguf
from src.training.train import train
from tests.engines.test_gguf import logits, model_of
from tests.helpers import gguf, live, tiny

RAW = raw_format('<human> "{x}": {question}\n<assistant>:')
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 32.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # as the tokenizer.json of Qwen2 (\p{N}) and of Llama 3 (\p{N}{1,3}) have it


def model(kind: str, **changes: Any) -> Any:
    """A small random model of transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1,
    }  # fmt: skip
    if kind == "gpt2":
        sizes = {
            "vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128,
            "n_inner": 96, "bos_token_id": None, "eos_token_id": 0,
        }  # fmt: skip
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | changes)).eval()
    for name, weights in made.named_parameters():
        if name.endswith("bias"):  # that a lost one is seen
            weights.data.normal_(std=0.1)
    return made


def written(file: Path, made: Any, kind: str = "f16", tokens: Any = None, **more: Any) -> Path:
    tokens = tokens or tiny.tokenizer()
    keys = export.configuration_keys(made.config) | tokenizer_keys(
        tokens, more.pop("form", RAW), rows=made.config.vocab_size, **more
    )
    export.write(made, keys, file, kind)
    return file


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ("gpt2", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "head_dim": 32, "tie_word_embeddings": False}),
        ("llama", {"rope_parameters": LLAMA3_ROPE, "max_position_embeddings": 131072}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
        ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_the_file_is_the_model(home: Path, shape: str, changes: dict[str, Any], kind: str) -> None:
    made = model(shape, **changes)
    tokens = tiny.tokenizer()
    tokens.add_tokens("<|endoftext|>", special_tokens=True)  # the class of Qwen2 adds it otherwise
    file = written(home / "made.gguf", made, kind, tokens)
    for name, weights in made.named_parameters():
        if weights.dim() > 1 and "wpe" not in name:  # what the file can hold of it
            if kind == "f16":
                weights.data = weights.data.half().float()
            else:
                turned = "c_" in name  # held as (in, out), quantized as (out, in)
                rows = (weights.T if turned else weights).detach().contiguous().numpy()
                blocks = library.quantize(rows, library.GGMLQuantizationType.Q8_0)
                kept = torch.from_numpy(
                    library.dequantize(blocks, library.GGMLQuantizationType.Q8_0).copy()
                )
                weights.data = kept.T.contiguous() if turned else kept
    read, vocabulary = model_of(file)
    # Biases, and the products of a quantization, are rounded to 16 bits once more when it is read.
    known = logits(made)
    assert (logits(read) - known).abs().mean() < 0.01 * known.abs().mean()
    has_head = any(tensor.name == "output.weight" for tensor in read_header(file).tensors)
    assert has_head is not made.config.tie_word_embeddings
    assert vocabulary.context_tokens == made.config.max_position_embeddings
    # As the library that llama.cpp's own tools use sees it.
    fields = library.GGUFReader(file).fields
    assert fields["general.architecture"].contents() == {"mistral": "llama"}.get(shape, shape)
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False


def test_the_tokenizer_and_the_prompts_come_back(home: Path) -> None:
    file = written(home / "made.gguf", model("llama"))
    known, found = tiny.tokenizer(), load_vocabulary(str(file)).tokenizer
    for text in ("<human>: velvet\n<assistant>: v e l v e t", " Straße 1234  x", "a<|end|>b"):
        assert found.encode(text) == known.encode(text)
    assert (found.eos_token, found.pad_token) == ("<|end|>", "<|pad|>")
    # A program that only chats asks as the run was trained.
    turns = [{"role": "user", "content": "velvet"}, {"role": "assistant", "content": " v e"}]
    asked = found.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert asked == RAW.prompt("velvet")
    told = found.apply_chat_template([*turns, turns[0]], tokenize=False)
    assert told == f"{RAW.prompt('velvet')} v e<|end|>{RAW.prompt('velvet')}"


def bpe(steps: list[Any], normalizer: Any = None, **options: Any) -> Any:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], **options))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="b")


def byte_level(**options: Any) -> Any:
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False} | options)


def split(pattern: str, behavior: str = "isolated") -> Any:
    return pre_tokenizers.Split(Regex(pattern), behavior)


DIGITS, BARE = pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=False)
NFC = normalizers.NFC()


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("gpt-2", bpe([byte_level()])),
        ("smollm", bpe([DIGITS, byte_level()])),
        ("qwen2", bpe([split(WORDS % r"\p{N}"), BARE], NFC)),
        ("qwen2", bpe([split(WORDS % r"\p{N}"), BARE])),
        ("llama-bpe", bpe([split(WORDS % r"\p{N}{1,3}"), BARE], ignore_merges=True)),
        ("dbrx", bpe([split(WORDS % r"\p{N}{1,3}"), BARE])),
        ("command-r", bpe([DIGITS, byte_level()], NFC)),
    ],
)
def test_the_rule_that_splits_text_is_named_by_its_definition(name: str, tokens: Any) -> None:
    assert tokenizer_keys(tokens, RAW, rows=4)["tokenizer.ggml.pre"] == name


@pytest.mark.parametrize(
    "tokens",
    [
        bpe([byte_level(add_prefix_space=True)]),
        bpe([split(r"\w+"), BARE]),
        bpe([split(WORDS % r"\p{N}", "removed"), BARE]),
        bpe([BARE]),
        bpe([pre_tokenizers.Whitespace()]),
        bpe([byte_level()], normalizers.Lowercase()),
        bpe([byte_level()], end_of_word_suffix="</w>"),
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(tokens: Any) -> None:
    with pytest.raises(CannotExport, match="write a merged folder instead"):
        tokenizer_keys(tokens, RAW, rows=4)


@pytest.mark.parametrize(
    ("shape", "changes", "why"),
    [
        ("gpt_neox", {}, "a gpt_neox model cannot be written as GGUF; gpt2, llama"),
        ("llama", {"hidden_act": "gelu"}, "no llama with hidden_act: gelu"),
        ("qwen3", {"attention_bias": True}, "no qwen3 with attention_bias: True"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
         "of the type dynamic"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4,
                                       "mscale": 0.7}}, "cannot say mscale"),
    ],
)  # fmt: skip
def test_a_model_that_llama_cpp_does_not_have_is_refused(
    shape: str, changes: dict[str, Any], why: str
) -> None:
    from transformers import AutoConfig

    with pytest.raises(CannotExport, match=why):
        export.configuration_keys(AutoConfig.for_model(shape, **changes))


def test_numbers_beyond_16_bits_are_refused_and_leave_no_file(home: Path) -> None:
    made = model("llama")
    made.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e5
    with pytest.raises(CannotExport, match=r"blk.0.ffn_up.weight has numbers beyond 65504"):
        written(home / "out" / "made.gguf", made)
    assert not list((home / "out").iterdir())


@pytest.mark.root
def test_a_full_disk_is_said_and_leaves_no_file(home: Path) -> None:
    with live.mounted(home / "small", "128k"):
        with pytest.raises(OSError, match="No space left") as told:
            written(home / "small" / "made.gguf", model("llama"))
        assert told.value.errno == 28
        assert not list((home / "small").iterdir())


def test_a_modelfile_asks_as_the_run_was_trained() -> None:
    text = ollama.modelfile("a.gguf", RAW, stop="<|end|>", bos=None, max_tokens=32)
    assert text == (
        "FROM ./a.gguf\n"
        'TEMPLATE """<human> {{ `"` }}{{ `{` }}x}{{ `"` }}: {{ .Prompt }}\n<assistant>:"""\n'
        'PARAMETER stop """<|end|>"""\n'
        "PARAMETER temperature 0\nPARAMETER repeat_penalty 1\nPARAMETER num_predict 32\n"
    )
    # llama.cpp puts the first token there by itself.
    chat = PromptFormat(("<s>[INST] ", " [/INST]"), is_chat=True)
    told = ollama.modelfile("a.gguf", chat, stop="</s>", bos="<s>", max_tokens=8)
    assert 'TEMPLATE """[INST] {{ .Prompt }} [/INST]"""' in told


@pytest.mark.parametrize("source", ["folder", "file"])
def test_a_run_is_exported_with_its_adapter(home: Path, base: Path, source: str) -> None:
    from peft import PeftModel

    name = gguf.write(home / "base.gguf", base / "llama") if source == "file" else base / "llama"
    template = {"data.template": "chat"} if source == "file" else {}
    config = tiny.config_of(base, **{
        "model.name": str(name), "training.max_steps": 3, "lora.dropout": 0.0, **template,
    })  # fmt: skip
    train(config, tiny.Recorder(), output_dir=home / "run", checkpoints_dir=home / "c")
    modelfile = export_gguf(config, home / "run" / "final", home / "out" / "mine.gguf", "f16")
    assert sorted(file.name for file in modelfile.parent.iterdir()) == [
        "mine.Modelfile", "mine.gguf",
    ]  # fmt: skip
    told = read_vocabulary(home / "out" / "mine.gguf")
    if source == "file":  # its own vocabulary and template
        first = read_vocabulary(Path(name))
        assert all(told[key] == first[key] for key in first if key.startswith("tokenizer."))
        assert "<|pad|>user\n{{ .Prompt }}<|end|>\n<|pad|>assistant\n" in modelfile.read_text()
    trained = PeftModel.from_pretrained(model_of(name)[0], home / "run" / "final").eval()
    before = logits(model_of(name)[0])
    read, vocabulary = model_of(home / "out" / "mine.gguf")
    assert vocabulary.tokenizer.eos_token == "<|end|>"
    apart = (logits(read) - logits(trained)).abs().mean()
    assert apart < 0.02 < 0.1 < (logits(trained) - before).abs().mean()

"""Compare the packed engine with TRL, with random weights and without a network.

`python -m benchmarks.packed --out FOLDER --shape gpt2 --phases check,peak,packed,baselines`
writes FOLDER/SHAPE.json and SHAPE.md, and again after each measurement, so that nothing measured is
lost; the profiles are written next to them. `--tiny` uses a model that a CPU trains in seconds.
Each phase ends after `--seconds`.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

STARTED = time.time()
ROWS, LENGTH, ANSWER = 16, 32, 12  # a step of one adapter
RANKS, ALPHAS, RATES = (2, 4, 8, 16), (8.0, 16.0, 32.0, 64.0), (1e-4, 2e-4, 5e-4, 1e-3)
PACKS = (1, 4, 16, 64, 128)
PEFT_STEPS = 60
LONGEST = 16  # kernels of a profile that have a row of their own
ALONE = 10  # first steps of a process, after which it waits for those beside it
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"kind": "gpt2", "width": 768, "layers": 12, "heads": 12, "vocabulary": 50257},
    "qwen": {
        "kind": "qwen2", "width": 896, "layers": 24, "heads": 14, "kv_heads": 2,
        "vocabulary": 151936, "inner": 4864,
    },
    "tiny": {"kind": "gpt2", "width": 64, "layers": 2, "heads": 2, "vocabulary": 320},
    "tiny-qwen": {
        "kind": "qwen2", "width": 64, "layers": 2, "heads": 2, "kv_heads": 1,
        "vocabulary": 320, "inner": 128,
    },
}  # fmt: skip


class Results:
    """Rows of measurements, each written to disk as soon as it is made."""

    def __init__(self, folder: Path, shape: str):
        self.file = folder / f"{shape}.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        if self.file.exists():
            self.rows = json.loads(self.file.read_text())["rows"]

    def add(self, **row: Any) -> None:
        self.rows.append({"at_seconds": round(time.time() - STARTED, 1), **row})
        print(json.dumps(self.rows[-1], default=str), flush=True)
        self.file.write_text(json.dumps({"machine": machine(), "rows": self.rows}, indent=1))
        self.file.with_suffix(".md").write_text(markdown(self.rows))

    def value(self, name: str, key: str) -> Any:
        found = [row[key] for row in self.rows if row.get("name") == name and key in row]
        return found[-1] if found else None


def markdown(rows: list[dict[str, Any]]) -> str:
    """One table per phase, with a column for each key of its rows."""
    parts = []
    for phase in dict.fromkeys(row["phase"] for row in rows):
        mine = [{k: v for k, v in row.items() if k != "phase"} for row in rows
                if row["phase"] == phase]  # fmt: skip
        keys = list(dict.fromkeys(key for row in mine for key in row))
        lines = [f"## {phase}", "", "| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
        lines += ["| " + " | ".join(str(row.get(key, "")) for key in keys) + " |" for row in mine]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def machine() -> dict[str, Any]:
    import torch

    from src.models.utils import versions

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": device, "versions": versions()}


def random_model(shape: str, dtype: Any) -> Any:
    """A causal model of this shape with random weights, frozen."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

    s = SHAPES[shape]
    torch.manual_seed(0)
    model: Any
    if s["kind"] == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                n_layer=s["layers"], n_embd=s["width"], n_head=s["heads"],
                vocab_size=s["vocabulary"], n_positions=128, resid_pdrop=0, embd_pdrop=0,
                attn_pdrop=0, activation_function="gelu_pytorch_tanh", bos_token_id=0,
                eos_token_id=0, pad_token_id=1,
            )
        )  # fmt: skip
    else:
        model = Qwen2ForCausalLM(
            Qwen2Config(
                num_hidden_layers=s["layers"], hidden_size=s["width"],
                intermediate_size=s["inner"], num_attention_heads=s["heads"],
                num_key_value_heads=s["kv_heads"], vocab_size=s["vocabulary"],
                max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=0,
                eos_token_id=0, pad_token_id=1,
            )
        )  # fmt: skip
    return model.to(device(), dtype).eval().requires_grad_(False)


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def flop_of_a_step(base: Any) -> float:
    """Of one adapter's step: forward and the gradient of the activations through the frozen layers
    for each token that is read, and the head at the answers; the adapters' own products not
    counted."""
    body = sum(part.weight.numel() for layer in base.layers for part in layer.linears)
    head = base.vocabulary * base.head.shape[1]
    return float(ROWS * 4 * (body * (LENGTH - 1) + head * ANSWER))


def targets_of(shape: str) -> list[str]:
    if SHAPES[shape]["kind"] == "gpt2":
        return ["c_attn", "c_fc", "c_proj"]
    return ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def pack_of(base: Any, adapters: int, **options: Any) -> Any:
    """A pack of fresh adapters over the grid r x alpha x learning rate."""
    from src.models.multi_lora.adapters import initial_weights, zeros_like
    from src.models.multi_lora.step import AdapterState, Options, Pack

    ranks = [RANKS[-1] if adapters == 1 else RANKS[slot % 4] for slot in range(adapters)]
    pack = Pack(base, adapters, max(ranks), options=Options(**options))
    drawn: dict[int, AdapterState] = {}
    for slot, rank in enumerate(ranks):
        if rank not in drawn:
            params = initial_weights(
                pack.layout.layer_shapes, rank=rank, seed=rank, dtype=base.dtype
            )
            moments = tuple(zeros_like(params) for _ in pack.state)
            drawn[rank] = AdapterState(params, moments)
        pack.put(slot, drawn[rank], ALPHAS[slot // 4 % 4] / rank)
    return pack


def steps_of(base: Any, adapters: int, count: int) -> list[Any]:
    """Random steps, each of ROWS rows of LENGTH tokens with an answer of ANSWER tokens."""
    import torch

    from src.models.multi_lora.optimizer import AdamW
    from src.models.multi_lora.step import BatchShape, LossNumbers, StepInput
    from src.training.packed.batches import padded_length

    length = padded_length(LENGTH - 1, adapters * ROWS)
    shape = BatchShape(ROWS, length, ROWS * ANSWER)
    optimizer = AdamW(max_grad_norm=0.3, weight_decay=0.01)
    numbers = LossNumbers(loss_weight=1 / (ROWS * ANSWER))
    top = min(base.vocabulary, 1500)
    positions = torch.arange(LENGTH - ANSWER - 1, LENGTH - 1)
    positions = torch.arange(ROWS)[:, None] * length + positions
    positions = positions.flatten().repeat(adapters, 1)
    steps = []
    for step in range(count):
        rows = torch.randint(5, top, (adapters, ROWS, LENGTH))
        ids = torch.nn.functional.pad(rows[:, :, :-1], (0, length - LENGTH + 1)).flatten(1)
        targets = rows[:, :, -ANSWER:].flatten(1)
        keys = torch.zeros(adapters, 1, dtype=torch.long)
        reals = torch.tensor(
            [
                (*optimizer.hyper(step + 1, RATES[slot // 16 % 4]), *numbers)
                for slot in range(adapters)
            ]
        )
        integers = torch.cat([ids, positions, targets, keys], 1).int()
        steps.append(StepInput(shape, integers, reals))
    return steps


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], Any], seconds: float, least: int = 3) -> list[float]:
    """Seconds of each call, for as many calls as fit, at least `least`."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < least or time.perf_counter() < end:
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        found.append(time.perf_counter() - started)
    return found


def free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def gib() -> float | None:
    import torch

    if not torch.cuda.is_available():
        return None
    return round(torch.cuda.max_memory_reserved() / 2**30, 2)


def parse(variant: str) -> tuple[int, dict[str, Any]]:
    """`64+graphs+kernels+at_once=16` -> (64, {"graphs": True, ...})."""
    first, *rest = variant.split("+")
    options: dict[str, Any] = {}
    for word in rest:
        name, equals, value = word.partition("=")
        options[name] = int(value) if equals else True
    return int(first), options


def phase_peak(results: Results, options: argparse.Namespace) -> None:
    """Measure the rate of a large bf16 product, and of the base's own products at K = 64."""
    import torch

    if device() == "cpu":
        results.add(phase="peak", name="large product", tflops=0.05)
        return
    width = SHAPES[options.shape]["width"]
    for name, (m, k, n) in {
        "large product": (8192, 8192, 8192),
        "width x 3 width": (64 * ROWS * LENGTH, width, 3 * width),
        "width x width": (64 * ROWS * LENGTH, width, width),
        "width x 4 width": (64 * ROWS * LENGTH, width, 4 * width),
        "4 width x width": (64 * ROWS * LENGTH, 4 * width, width),
        "16 adapters, width x 4 width": (16 * ROWS * LENGTH, width, 4 * width),
    }.items():
        a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
        b = torch.randn(k, n, device="cuda", dtype=torch.bfloat16)
        c = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
        times = timed(lambda a=a, b=b, c=c: [torch.mm(a, b, out=c) for _ in range(20)], 0.5)  # type: ignore[misc]
        rate = 20 * 2 * m * k * n / statistics.median(times) / 1e12
        results.add(phase="peak", name=name, tflops=round(rate, 1))


def phase_check(results: Results, options: argparse.Namespace) -> None:
    """Compare loss and gradients of one step by each GPU implementation with the plain one."""
    import torch

    from src.models.multi_lora.base import read_base

    found = {}
    count = 4
    wide = random_model(options.shape, torch.float32)
    torch.manual_seed(3)
    steps = steps_of(read_base(wide, targets_of(options.shape), torch.float32), count, 4)
    ways: list[tuple[str, Any, dict[str, Any]]] = [("fp32", torch.float32, {})]
    ways += [("bf16", torch.bfloat16, {})]
    if device() == "cuda":
        ways += [
            ("fp32 kernels", torch.float32, {"kernels": True}),
            ("bf16 kernels", torch.bfloat16, {"kernels": True}),
            ("bf16 kernels graphs", torch.bfloat16, {"kernels": True, "graphs": True}),
            ("bf16 graphs at_once=2", torch.bfloat16, {"graphs": True, "at_once": 2}),
        ]
    for name, dtype, extra in ways:
        base = read_base(wide, targets_of(options.shape), dtype)
        pack = pack_of(base, count, **extra)
        torch.manual_seed(5)
        # Adapters that have trained a while: a fresh one has no gradient in A.
        noise = torch.randn(pack.params.shape, generator=torch.Generator().manual_seed(1)) * 0.02
        pack.params += noise.to(pack.params) * (pack.params.abs().sum(1, keepdim=True) > 0)
        start = pack.params.clone()
        pack._compute_params_stale = True
        (one, *_) = pack.run(steps[:1])
        gradients = pack.grads.double().cpu()
        if pack._fused_adamw is not None:  # its kernel takes the scale along
            gradients[:, pack.layout.b_start :] *= pack.scales.double().cpu()
        pack.run(steps[1:])
        found[name] = (gradients, (pack.params - start).double().cpu(), one.double().cpu())
        reference = found["fp32" if "fp32" in name else "bf16"]
        row: dict[str, Any] = {"phase": "check", "name": name}
        for what, at in (("gradients", 0), ("moved in 4 steps", 1), ("loss and norms", 2)):
            mine, other, exact = found[name][at], reference[at], found["fp32"][at]
            row[f"{what} against the plain way"] = f"{relative(mine, other):.1e}"
            row[f"{what} against fp32"] = f"{relative(mine, exact):.1e}"
        results.add(**row)
        del pack, base
        free()


def relative(one: Any, other: Any) -> float:
    return float((one - other).norm() / other.norm())


def shown() -> list[str]:
    """The variants of the table in docs/results.md, as a run has them."""
    from src.training.packed.engine import ADAPTERS_PER_PASS

    if device() == "cpu":
        return ["1", "4"]
    split = {
        count: f"+at_once={ADAPTERS_PER_PASS}" if count > ADAPTERS_PER_PASS else ""
        for count in PACKS
    }
    return [f"{count}+graphs+kernels{more}" for count, more in split.items()]


def phase_packed(results: Results, options: argparse.Namespace) -> None:
    """Measure the steps of each variant: K, and how a step is computed."""
    import torch

    from src.models.multi_lora.base import read_base

    dtype = torch.bfloat16 if device() == "cuda" else torch.float32
    base = read_base(random_model(options.shape, dtype), targets_of(options.shape), dtype)
    peak = results.value("large product", "tflops")
    for variant in options.variants.split(",") if options.variants else shown():
        free()
        adapters, how = parse(variant)
        try:
            measure(results, base, variant, adapters, how, peak, options)
        except (torch.OutOfMemoryError, RuntimeError, AttributeError, TypeError) as error:
            # The next variant may still teach something.
            results.add(phase="packed", name=variant, problem=repr(error)[:600])


def measure(
    results: Results, base: Any, variant: str, adapters: int, how: dict[str, Any],
    peak: float | None, options: argparse.Namespace,
) -> None:  # fmt: skip
    started = time.perf_counter()
    pack = pack_of(base, adapters, **how)
    steps = steps_of(base, adapters, 10)
    prepared = time.perf_counter()
    pack.run(steps[:2])
    synchronize()
    ready = time.perf_counter()
    times = [t / len(steps) for t in timed(lambda: pack.run(steps), options.seconds_each)]
    step = statistics.median(times)
    rate = flop_of_a_step(base) * adapters / step / 1e12
    results.add(
        phase="packed", name=variant, adapters=adapters,
        adapter_steps_per_second=round(adapters / step, 1),
        step_ms=round(1e3 * step, 2), fastest_ms=round(1e3 * min(times), 2),
        slowest_ms=round(1e3 * max(times), 2),
        tokens_per_second=round(adapters * ROWS * LENGTH / step),
        tflops=round(rate, 1), share_of_peak=round(rate / peak, 3) if peak else None,
        gib=gib(), draw_seconds=round(prepared - started, 2),
        first_steps_seconds=round(ready - prepared, 2),
    )  # fmt: skip
    name = variant.replace("+", "_").replace("=", "_")
    profile(results, variant, pack, steps[:5], options.out / f"profile-{options.shape}-{name}.txt")


def profile(results: Results, variant: str, pack: Any, steps: list[Any], file: Path) -> None:
    """Profile these steps: the longest kernels, and all of them in a text file."""
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity

    kinds = [ProfilerActivity.CPU]
    if device() == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as found:
        pack.run(steps)
        synchronize()
    averages = found.key_averages()
    on, spent = DeviceType.CPU, "self_cpu_time_total"
    if device() == "cuda":
        on, spent = DeviceType.CUDA, "self_device_time_total"
    file.write_text(averages.table(sort_by=spent, row_limit=45, max_name_column_width=90))
    # Beside the kernels stand the operators that launched them, with the same time once more.
    times = {e.key: (getattr(e, spent), e.count) for e in averages if e.device_type == on}
    whole = sum(time for time, _ in times.values()) or 1.0
    longest = sorted(times, key=lambda key: -times[key][0])[:LONGEST]
    rows = [(key, *times[key]) for key in longest]
    rows.append(("the rest", whole - sum(time for _, time, _ in rows), 0))
    for kernel, microseconds, count in rows:
        results.add(
            phase=f"profile of {variant}", kernel=kernel.replace("|", "/")[:70],
            share=round(microseconds / whole, 3),
            ms_a_step=round(microseconds / 1e3 / len(steps), 3),
            calls_a_step=count / len(steps) or "",
        )  # fmt: skip


def phase_baselines(results: Results, options: argparse.Namespace) -> None:
    """Measure TRL's trainer in subprocesses: default and tuned, with PEFT and with Unsloth."""
    backends = options.backends.split(",") if device() == "cuda" else ["peft"]
    cases = [(backend, setting) for backend in backends for setting in ("default", "tuned")]
    with tempfile.TemporaryDirectory() as folder:
        flop = save_base(options.shape, Path(folder) / "base")
        for backend, setting in cases:
            row = run_baselines(Path(folder), backend, setting, 1, options)
            name = f"trl {backend} {setting}"
            results.add(phase="baselines", name=name, **row, **work(results, flop, row))


def phase_processes(results: Results, options: argparse.Namespace) -> None:
    """Measure several TRL processes at once on one GPU."""
    with tempfile.TemporaryDirectory() as folder:
        flop = save_base(options.shape, Path(folder) / "base")
        for count in (4,) if options.shape.startswith("tiny") else (4, 8):
            row = run_baselines(Path(folder), "peft", "tuned", count, options)
            name = f"trl peft tuned x {count} processes"
            results.add(phase="baselines", name=name, **row, **work(results, flop, row))


def work(results: Results, flop: float, row: dict[str, Any]) -> dict[str, Any]:
    """TFLOP/s of a baseline, and their share of the peak: of the work that the packed engine needs
    for as many steps, whatever a trainer does beside it."""
    rate, peak = row.get("steps_per_second"), results.value("large product", "tflops")
    if not rate:
        return {}
    share = {"share_of_peak": round(flop * rate / 1e12 / peak, 4)} if peak else {}
    return {"tflops": round(flop * rate / 1e12, 3), **share}


def save_base(shape: str, folder: Path) -> float:
    """Write the base into `folder`; `flop_of_a_step` of it."""
    import torch

    from src.models.multi_lora.base import read_base
    from tests.helpers import tiny

    # In another process transformers would be imported anew; Unsloth patches only its own.
    dtype = torch.bfloat16 if device() == "cuda" else torch.float32
    model = random_model(shape, dtype)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    flop = flop_of_a_step(read_base(model, targets_of(shape), dtype))
    del model
    free()
    return flop


def run_baselines(
    folder: Path, backend: str, setting: str, count: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Steps per second of `count` processes while all of them train."""
    files = [folder / f"{backend}-{setting}-{count}-{n}.json" for n in range(count)]
    command = [sys.executable, "-m", "benchmarks.packed", "--baseline", backend, setting]
    command += ["--shape", options.shape, "--base", str(folder / "base")]
    command += ["--steps", str(options.steps), "--at-once", str(count)]
    started = time.time()
    logs = [file.with_suffix(".log") for file in files]
    running = []
    for file, log in zip(files, logs, strict=True):
        with open(log, "w") as opened:
            running.append(
                subprocess.Popen([*command, "--out", str(file)], stdout=opened, stderr=opened)
            )
    try:
        for process in running:
            process.wait(max(options.seconds - (time.time() - started), 1))
    except subprocess.TimeoutExpired:
        for process in running:
            process.kill()
        return {"problem": f"not done in {options.seconds} s"}
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    if len(found) < count:
        return {"problem": " / ".join(log.read_text()[-300:] for log in logs)[-900:]}
    # Only the time in which every process trained, after they waited for each other.
    begin, end = max(f["steps"][ALONE] for f in found), min(f["steps"][-1] for f in found)
    steps = sum(sum(begin < at <= end for at in f["steps"]) for f in found)
    gaps = [
        b - a
        for f in found
        for a, b in zip(f["steps"][ALONE:], f["steps"][ALONE + 1 :], strict=False)
    ]
    return {
        "steps_per_second": round(steps / (end - begin), 2) if end > begin else None,
        "median_step_ms": round(1e3 * statistics.median(gaps), 2),
        "fastest_ms": round(1e3 * min(gaps), 2),
        "slowest_ms": round(1e3 * max(gaps), 2),
        "tokens_per_second": round(steps / (end - begin) * ROWS * LENGTH) if end > begin else None,
        "gib": found[0]["gib"],
        "seconds_to_first_step": round(max(f["steps"][0] for f in found) - started, 1),
        "used": found[0]["used"],
    }


def baseline(
    backend: str, setting: str, shape: str, base: str, out: Path, steps: int, count: int
) -> None:
    """Train with TRL in this process, beside `count` - 1 others, and write when each step ended."""
    from src.models import spelling_model as spelling

    precision = "bf16" if device() == "cuda" else "fp32"
    used, note = spelling.choose_backend(backend, precision=precision)
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tuned = setting == "tuned"
    vocabulary = spelling.load_vocabulary(base, revision=None)
    shared = {"max_length": 64, "gradient_checkpointing": not tuned, "seed": 0}
    model = spelling.load_base(
        base, vocabulary, revision=None, load_in_4bit=False, precision=precision, backend=used,
        **shared,
    )  # fmt: skip
    model, _ = spelling.add_lora(
        model, backend=used, r=RANKS[-1], alpha=32, dropout=0.0, target_modules=targets_of(shape),
        bias="none", **shared,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    top = min(SHAPES[shape]["vocabulary"], 1500)
    ids = torch.randint(5, top, (ROWS * 8, LENGTH), generator=generator).tolist()
    labels = [[-100] * (LENGTH - ANSWER) + row[-ANSWER:] for row in ids]
    steps = steps if device() == "cuda" else 14
    extra: dict[str, Any] = {}
    if tuned:
        extra = {
            "logging_nan_inf_filter": False,
            "logging_steps": 50,
            "dataloader_pin_memory": True,
        }
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if len(ends) == ALONE:
                # Those beside it start at other moments; only steps at the same time count.
                out.with_suffix(".ready").touch()
                while len(list(out.parent.glob(f"{backend}-{setting}-{count}-*.ready"))) < count:
                    time.sleep(0.01)
            ends.append(time.time())

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            synchronize()
            ends[-1] = time.time()

    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder, max_steps=steps, per_device_train_batch_size=ROWS,
                gradient_accumulation_steps=1, learning_rate=2e-4, max_length=64,
                bf16=precision == "bf16", use_cpu=precision == "fp32",
                gradient_checkpointing=not tuned, save_strategy="no", report_to="none",
                disable_tqdm=True, packing=False, remove_unused_columns=False, loss_type="nll",
                dataset_kwargs={"skip_prepare_dataset": True}, **extra,
            ),
            train_dataset=Dataset.from_dict({"input_ids": ids, "labels": labels}),
            processing_class=vocabulary.tokenizer,
            callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    peak = torch.cuda.max_memory_reserved() / 2**30 if torch.cuda.is_available() else None
    out.write_text(
        json.dumps({"steps": ends, "gib": peak and round(peak, 2), "used": note or used})
    )


def words(folder: Path) -> None:
    """Questions of random letters: rows of about LENGTH tokens, ANSWER of them the answer's."""
    import random

    draw = random.Random(0)
    folder.mkdir()
    for split, count in (("train", 2000), ("validation", 400), ("test", 400)):
        lines = []
        for _ in range(count):
            word = "".join(draw.choices("qwxzjkvybhgf", k=ANSWER - 3))
            lines.append(json.dumps({"question": word, "answer": " ".join(word)}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))


def sweep_config(folder: Path, index: int, options: argparse.Namespace) -> Any:
    """Trial `index` of the grid r x alpha x learning rate."""
    from src.config import load_config

    steps = options.sweep_steps
    return load_config(
        overrides={
            "backend": "peft", "model.name": str(folder / "base"), "model.load_in_4bit": False,
            "model.max_length": 64, "data.path": str(folder / "words"), "lora.dropout": 0.0,
            "lora.r": RANKS[index % 4], "lora.alpha": ALPHAS[index // 4 % 4],
            "training.learning_rate": RATES[index // 16 % 4], "training.max_steps": steps,
            "training.per_device_train_batch_size": ROWS, "training.logging_steps": 50,
            "training.gradient_checkpointing": False, "evaluation.eval_steps": steps,
            "evaluation.batch_size": 400, "checkpointing.save_steps": steps,
            "early_stopping.patience": None, "engine": options.solo_engine,
        }
    )  # fmt: skip


def sweep_files(options: argparse.Namespace, folder: Path) -> None:
    save_base(options.shape, folder / "base")
    words(folder / "words")


def child(options: argparse.Namespace, folder: Path, *arguments: str) -> tuple[float, str]:
    """Run this script as a subprocess; its seconds, and the last line that it printed."""
    command = [sys.executable, "-m", "benchmarks.packed", "--shape", options.shape, "--base"]
    command += [str(folder), "--sweep-steps", str(options.sweep_steps), "--trials"]
    command += [str(options.trials), "--solo-engine", options.solo_engine, *arguments]
    started = time.time()
    file = folder / f"{uuid.uuid4()}.log"
    with open(file, "w") as log:
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=log, text=True, timeout=options.seconds
            )
        except subprocess.TimeoutExpired:
            return time.time() - started, json.dumps({"problem": f"over {options.seconds} s"})
    if done.returncode:
        problem = file.read_text()[-900:]
        return time.time() - started, json.dumps({"problem": problem})
    return time.time() - started, done.stdout.strip().splitlines()[-1]


def phase_sweep(results: Results, options: argparse.Namespace) -> None:
    """Measure the whole grid in one packed process, from launch to evaluated, saved adapters."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep_files(options, folder)
        seconds, line = child(options, folder, "--sweep-run", "--out", str(folder / "out"))
        saved = len(list((folder / "out").glob("*/out/final/adapter_model.safetensors")))
        results.add(
            phase="sweep", name=f"packed, {options.trials} trials x {options.sweep_steps} steps",
            seconds=round(seconds, 1), saved=saved, **json.loads(line),
        )  # fmt: skip


def phase_solo(results: Results, options: argparse.Namespace) -> None:
    """Measure some trials of the grid, one process each, `--at-once` at the same time."""

    def one(index: int) -> None:
        trial = (index * 7) % options.trials
        seconds, line = child(
            options, folder, "--solo-run", str(trial), "--out", str(folder / f"solo{index}")
        )
        others = f", {options.at_once} at once" if options.at_once > 1 else ""
        results.add(
            phase="sweep",
            name=f"alone ({options.solo_engine}), trial {trial} x {options.sweep_steps} "
            f"steps{others}",
            seconds=round(seconds, 1), **json.loads(line),
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.at_once) as pool:
        folder = Path(name)
        sweep_files(options, folder)
        list(pool.map(one, range(options.first_solo, options.first_solo + options.solos)))


def sweep_run(options: argparse.Namespace) -> None:
    from src.training.packed.engine import train_pack
    from src.training.packed.run import Trial
    from tests.helpers.tiny import Recorder

    class Clocked(Recorder):
        first = 0.0

        def metrics(self, step: int, values: Any) -> None:
            super().metrics(step, values)
            if "train/loss" in values and not Clocked.first:
                Clocked.first = time.time()

    imported = time.time()
    trials = [
        Trial(
            sweep_config(options.base, n, options), Clocked(), options.out / str(n) / "out",
            options.out / str(n) / "steps",
        )
        for n in range(options.trials)
    ]  # fmt: skip
    for trial in trials:
        trial.output_dir.mkdir(parents=True)
    found = train_pack(trials)
    problems = [repr(outcome) for _, outcome in found if isinstance(outcome, Exception)]
    print(
        json.dumps(
            {
                "imported_at": round(imported - STARTED, 1),
                "first_log_at": round(Clocked.first - STARTED, 1),
                "ended_at": round(time.time() - STARTED, 1),
                "gib": gib(),
                "problems": problems[:2],
            }
        )
    )


def solo_run(options: argparse.Namespace) -> None:
    from src.training.train import train
    from tests.helpers.tiny import Recorder

    options.out.mkdir(parents=True)
    config = sweep_config(options.base, options.solo_run, options)
    result = train(
        config, Recorder(), output_dir=options.out / "out", checkpoints_dir=options.out / "steps"
    )
    print(json.dumps({"ended_at": round(time.time() - STARTED, 1), "step": result.step}))


def phase_decode(results: Results, options: argparse.Namespace) -> None:
    """Evaluate 64 adapters x 400 words: packed, and with generate adapter by adapter."""
    import torch

    from src.models import spelling_model as spelling
    from src.models.multi_lora.base import read_base
    from src.models.multi_lora.step import Options
    from src.training import scoring
    from src.training.packed.scorer import Scorer
    from tests.helpers import tiny

    adapters = 4 if options.shape.startswith("tiny") else 64
    count = 40 if options.shape.startswith("tiny") else 400
    dtype = torch.bfloat16 if device() == "cuda" else torch.float32
    tokenizer = tiny.tokenizer()
    with tempfile.TemporaryDirectory() as name:
        words(Path(name) / "words")
        import pandas as pd

        frame = pd.read_json(Path(name) / "words" / "test.jsonl", lines=True)[:count]
    frame["word"] = frame["question"]
    rows = scoring.encode(tokenizer, frame, "<human>: {question}\n<assistant>:")
    # Random weights never end an answer: both ways decode the same number of tokens.
    asked: dict[str, Any] = {"batch_size": count, "max_new_tokens": 20}
    model = random_model(options.shape, dtype)
    base = read_base(model, targets_of(options.shape), dtype)
    pack = pack_of(base, adapters)
    scorer = Scorer(base, tokenizer, 128, Options(kernels=device() == "cuda"))
    members = [(slot, rows) for slot in range(adapters)]
    scorer.score(pack.stacks, members[:2], **asked)
    free()
    times = timed(lambda: scorer.score(pack.stacks, members, **asked), 1, least=2)
    packed = statistics.median(times)
    results.add(
        phase="decode", name="packed", words_per_second=round(adapters * count / packed),
        seconds=round(packed, 2), gib=gib(),
        row_tokens=round(sum(map(len, rows)) / len(rows), 1),
        answer_tokens=round(sum(len(row.answer_ids) for row in rows) / len(rows), 1),
    )  # fmt: skip
    free()
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    adapted, _ = spelling.add_lora(
        model, backend="peft", r=RANKS[-1], alpha=32, dropout=0.0,
        target_modules=targets_of(options.shape), bias="none", gradient_checkpointing=False,
        max_length=64, seed=0,
    )  # fmt: skip
    precision = "bf16" if device() == "cuda" else "fp32"

    def one() -> None:
        scoring.score(adapted, tokenizer, rows, precision=precision, context=128, **asked)

    one()
    alone = statistics.median(timed(one, 1, least=3))
    results.add(
        phase="decode", name="generate, one adapter after the other",
        words_per_second=round(count / alone), seconds=round(alone * adapters, 2), gib=gib(),
        packed_is_faster_by=round(alone * adapters / packed, 1),
    )  # fmt: skip


def phase_engines(results: Results, options: argparse.Namespace) -> None:
    """Steps of real runs of the shipped base, through the TRL engine and in packs of K, in turn so
    that a machine that others use is fair to all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few_words(folder / "words")
        found: dict[tuple[str, int], list[float]] = {}
        spent: dict[tuple[str, int], list[float]] = {}
        ways = [("trl", 1), *(("packed", k) for k in (1, 2, 4, 8))]
        for _ in range(options.repeats):
            for engine, adapters in ways:
                arguments = "--engine-run", engine, "--adapters", str(adapters)
                _, line = child(options, folder, *arguments, "--out", str(folder / "out"))
                row = json.loads(line)
                if "problem" in row:
                    results.add(phase="engines", name=f"{engine} x {adapters}", **row)
                else:
                    found.setdefault((engine, adapters), []).append(row["steps_per_second"])
                    spent.setdefault((engine, adapters), []).append(row["processor_ms"])
        solo = statistics.median(found[ways[0]])
        for (engine, adapters), rates in found.items():
            results.add(
                phase="engines", name="one run, TRL" if engine == "trl" else f"K = {adapters}",
                adapter_steps_per_second=round(statistics.median(rates), 2),
                lowest=round(min(rates), 2), highest=round(max(rates), 2),
                against_solo=round(statistics.median(rates) / solo, 2),
                processor_ms=round(statistics.median(spent[engine, adapters]), 1),
            )  # fmt: skip


def few_words(folder: Path) -> None:
    """The training rows of spell_out, and four words to score: only steps are measured."""
    from src.training.data_loaders import load_splits

    splits = load_splits(task="spell_out")
    folder.mkdir()
    for split in ("train", "validation", "test"):
        frame = getattr(splits, split)[["question", "answer"]]
        frame = frame if split == "train" else frame.head(4)
        frame.to_json(folder / f"{split}.jsonl", orient="records", lines=True)


def engine_run(options: argparse.Namespace) -> None:
    """Train 40 steps of the preset tiny-spell in this process, with K adapters or through TRL.

    Where others use the machine the processor's time tells more than the clock, if
    SPELLTUNE_THREADS is 1: threads that wait for each other spend it too.
    """
    from src.config import load_config
    from src.training.packed.engine import train_pack
    from src.training.packed.run import Trial
    from src.training.train import train
    from tests.helpers.tiny import Recorder

    at: dict[int, tuple[float, float]] = {}

    class Clock(Recorder):
        def metrics(self, step: int, values: Any) -> None:
            if "train/loss" in values:
                at[step] = time.perf_counter(), time.process_time()

    configs = [
        load_config(
            preset="tiny-spell",
            overrides={
                "backend": "peft", "engine": options.engine_run,
                "training.max_steps": 40, "training.logging_steps": 10,
                "data.path": str(options.base / "words"), "evaluation.max_new_tokens": 2,
                "evaluation.eval_steps": 40, "checkpointing.save_steps": 40, "training.seed": n,
                "scheduler.warmup_steps": 2,
            },
        )
        for n in range(options.adapters)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.engine_run == "trl":
            train(configs[0], Clock(), output_dir=folder / "o", checkpoints_dir=folder / "s")
        else:
            train_pack(
                [Trial(config, Clock(), folder / f"o{n}", folder / f"s{n}")
                 for n, config in enumerate(configs)]
            )  # fmt: skip
    clock, processor = (late - early for late, early in zip(at[40], at[10], strict=True))
    steps = options.adapters * 30
    row = {"steps_per_second": steps / clock, "processor_ms": 1e3 * processor / steps}
    print(json.dumps(row))


def phase_seeds(results: Results, options: argparse.Namespace) -> None:
    """Compare a pack with solo runs of the same seeds of tiny-spell, on a GPU in bf16.

    The spread of the solo runs is the yardstick.
    """
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for engine in ("trl", "packed"):
            _, line = child(
                options, Path(name), "--seed-run", engine, "--out", str(Path(name) / engine),
                "--seeds", str(options.seeds), "--seed-steps", str(options.seed_steps),
            )  # fmt: skip
            row = json.loads(line)
            if "problem" in row:
                results.add(phase="seeds", name=engine, **row)
                return
            found[engine] = row["exact_match"]
    solo, packed = found["trl"], found["packed"]
    apart = statistics.mean(packed) - statistics.mean(solo)
    for engine, scores in found.items():
        results.add(
            phase="seeds", name=engine, seeds=len(scores), steps=options.seed_steps,
            exact_match=round(statistics.mean(scores), 4), lowest=round(min(scores), 4),
            highest=round(max(scores), 4),
        )  # fmt: skip
    results.add(
        phase="seeds", name="packed - trl", seeds=len(solo), steps=options.seed_steps,
        exact_match=round(apart, 4), within_the_spread=abs(apart) <= max(solo) - min(solo),
        of_one_seed_at_most=round(max(abs(a - b) for a, b in zip(*found.values(), strict=True)), 4),
    )  # fmt: skip


def seed_run(options: argparse.Namespace) -> None:
    """Train the seeds in this process, one by one with TRL or in a pack."""
    from src.config import load_config
    from src.training.packed.engine import train_pack
    from src.training.packed.run import Trial
    from src.training.train import train
    from tests.helpers.tiny import Recorder

    steps = options.seed_steps
    configs = [
        load_config(
            preset="tiny-spell",
            overrides={
                "backend": "peft", "engine": options.seed_run, "training.seed": seed,
                "training.max_steps": steps, "evaluation.eval_steps": steps,
                "checkpointing.save_steps": steps,
            },
        )
        for seed in range(options.seeds)
    ]  # fmt: skip
    folders = [options.out / str(seed) for seed in range(options.seeds)]
    if options.seed_run == "trl":
        ends: list[Any] = [
            train(config, Recorder(), output_dir=at / "out", checkpoints_dir=at / "steps")
            for config, at in zip(configs, folders, strict=True)
        ]
    else:
        trials = [Trial(c, Recorder(), at / "out", at / "steps") for c, at in zip(
            configs, folders, strict=True)]  # fmt: skip
        by_trial = {id(trial): end for trial, end in train_pack(trials)}
        ends = [by_trial[id(trial)] for trial in trials]
    print(json.dumps({"exact_match": [end.metrics["test/exact_match"] for end in ends]}))


PHASES: dict[str, Callable[[Results, argparse.Namespace], None]] = {
    "check": phase_check,
    "peak": phase_peak,
    "packed": phase_packed,
    "baselines": phase_baselines,
    "processes": phase_processes,
    "decode": phase_decode,
    "sweep": phase_sweep,
    "solo": phase_solo,
    "engines": phase_engines,
    "seeds": phase_seeds,
}


def phases(names: str) -> Iterator[tuple[str, Callable[[Results, argparse.Namespace], None]]]:
    for name in names.split(","):
        yield name, PHASES[name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--tiny", action="store_true", help="the tiny model of the shape")
    parser.add_argument("--phases", default="check,peak,packed", help=", ".join(PHASES))
    parser.add_argument("--variants", help="of the packed engine; those of the table without it")
    parser.add_argument("--seconds", type=float, default=240, help="a baseline process may take")
    parser.add_argument("--seconds-each", type=float, default=3, help="of timing a variant")
    parser.add_argument("--baseline", nargs=2, metavar=("BACKEND", "SETTING"))
    parser.add_argument("--backends", default="peft,unsloth", help="of the baselines")
    parser.add_argument("--steps", type=int, default=PEFT_STEPS, help="of a baseline")
    parser.add_argument("--base", type=Path, help="folder that a child process reads")
    parser.add_argument("--repeats", type=int, default=3, help="of each way in phase engines")
    parser.add_argument("--engine-run", choices=("trl", "packed"), help="be that process")
    parser.add_argument("--adapters", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=4, help="of each engine in phase seeds")
    parser.add_argument("--seed-steps", type=int, default=600, help="of each of them")
    parser.add_argument("--seed-run", choices=("trl", "packed"), help="be that process")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--sweep-steps", type=int, default=500)
    parser.add_argument("--solos", type=int, default=3, help="trials to measure alone")
    parser.add_argument("--solo-engine", choices=("trl", "packed"), default="trl")
    parser.add_argument("--at-once", type=int, default=1, help="trials beside each other")
    parser.add_argument("--first-solo", type=int, default=0)
    parser.add_argument("--sweep-run", action="store_true", help="be the sweep's process")
    parser.add_argument("--solo-run", type=int, help="be the process of this trial")
    options = parser.parse_args()
    if options.tiny:
        options.shape = "tiny-qwen" if options.shape == "qwen" else "tiny"
    if options.baseline:
        baseline(
            *options.baseline, options.shape, str(options.base), options.out, options.steps,
            options.at_once,
        )  # fmt: skip
        return 0
    if options.sweep_run:
        sweep_run(options)
        return 0
    if options.engine_run:
        engine_run(options)
        return 0
    if options.seed_run:
        seed_run(options)
        return 0
    if options.solo_run is not None:
        solo_run(options)
        return 0
    results = Results(options.out, options.shape)
    for name, phase in phases(options.phases):
        print(f"== {name} at {time.time() - STARTED:.0f} s", flush=True)
        phase(results, options)
    print((options.out / f"{options.shape}.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Steps of packs: correctness, rate, memory, and where the time goes."""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.packed.clock import free, gib, synchronize, timed
from benchmarks.packed.models import (
    LENGTH,
    ROW_KINDS,
    ROWS,
    SHAPES,
    device,
    flop_of_a_step,
    laid_flat,
    pack_of,
    random_model,
    steps_of,
    targets_of,
    tokens_of,
)
from benchmarks.packed.results import Results

PACKS = (1, 4, 16, 64, 128)


LONGEST = 16  # kernels of a profile that have a row of their own


def parse(variant: str) -> tuple[int, dict[str, Any]]:
    """`64+graphs+kernels+at_once=16` -> (64, {"graphs": True, ...}); `ragged` and `chat` are
    of the rows."""
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
    exact = read_base(wide, targets_of(options.shape), torch.float32)
    padded = steps_of(exact, count, 4, "ragged")
    ways: list[tuple[str, Any, dict[str, Any]]] = [("fp32", torch.float32, {})]
    ways += [("bf16", torch.bfloat16, {})]
    if device() == "cuda":
        ways += [
            ("fp32 kernels", torch.float32, {"kernels": True}),
            ("bf16 kernels", torch.bfloat16, {"kernels": True}),
            ("bf16 kernels graphs", torch.bfloat16, {"kernels": True, "graphs": True}),
            ("bf16 graphs at_once=2", torch.bfloat16, {"graphs": True, "at_once": 2}),
            ("fp32 kernels flat", torch.float32, {"kernels": True, "flat": True}),
            (
                "bf16 kernels graphs flat",
                torch.bfloat16,
                {"kernels": True, "graphs": True, "flat": True},
            ),
        ]
    for name, dtype, extra in ways:
        steps = laid_flat(exact, padded) if "flat" in extra else padded
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
            mine, other, right = found[name][at], reference[at], found["fp32"][at]
            row[f"{what} against the plain way"] = f"{relative(mine, other):.1e}"
            row[f"{what} against fp32"] = f"{relative(mine, right):.1e}"
        results.add(**row)
        del pack, base
        free()


def relative(one: Any, other: Any) -> float:
    return float((one - other).norm() / other.norm())


def shown() -> list[str]:
    """The variants of the table in docs/results.md, as a run has them."""
    from src.training.packed.engine import ADAPTERS_PER_PASS

    if device() == "cpu":
        return ["1", "1+at_once=1+ragged", "4", "4+at_once=1", "4+at_once=1+ragged"]
    split = {
        count: f"+at_once={ADAPTERS_PER_PASS}" if count > ADAPTERS_PER_PASS else ""
        for count in PACKS
    }
    uniform = [f"{count}+graphs+kernels+flat{more}" for count, more in split.items()]
    return uniform + [f"{name}+ragged" for name in uniform]


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
    rows = next((kind for kind in ROW_KINDS if kind in how), "uniform")
    how = {name: value for name, value in how.items() if name not in ROW_KINDS}
    pack = pack_of(base, adapters, **how)
    steps = steps_of(base, adapters, 10, rows)
    tokens = statistics.mean(map(tokens_of, steps))
    computed = steps[0].shape.rows * steps[0].shape.length * adapters
    if how.get("flat"):
        steps = laid_flat(base, steps)
        computed = round(statistics.mean(step.shape.tokens for step in steps) * adapters)
    prepared = time.perf_counter()
    pack.run(steps[:2])
    synchronize()
    ready = time.perf_counter()
    times = [t / len(steps) for t in timed(lambda: pack.run(steps), options.seconds_each)]
    step = statistics.median(times)
    # Of uniform rows; what ragged ones need is in proportion to their tokens.
    rate = flop_of_a_step(base) * tokens / (ROWS * LENGTH) / step / 1e12
    results.add(
        phase="packed", name=variant, adapters=adapters,
        adapter_steps_per_second=round(adapters / step, 1),
        step_ms=round(1e3 * step, 2), fastest_ms=round(1e3 * min(times), 2),
        slowest_ms=round(1e3 * max(times), 2),
        tokens_per_second=round(tokens / step), tokens_a_step=round(tokens),
        computed_tokens_a_step=computed,
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

"""Each backend trains each shape in 16 and in 4 bits on a GPU, and both learn the same."""

from pathlib import Path

import pytest

from benchmarks.gpu_check import CASES, start_case

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


@pytest.mark.parametrize(("shape", "bits"), sorted({case[:2] for case in CASES}))
def test_both_backends_train(shape: str, bits: int, tmp_path: Path) -> None:
    rows = {b: start_case((shape, bits, b), tmp_path) for b in ("peft", "unsloth")}
    for backend, row in rows.items():
        assert not row["problem"], "\n".join(row.get("log", [row["problem"]]))
        assert row["backend"] == backend
        # 12 layers 768 wide with rank 16, in fp32, and no embeddings beside them.
        assert row["adapter_mib"] < 10
    one, other = (row["metrics"]["val/loss"] for row in rows.values())
    assert one == pytest.approx(other, abs=0.02)

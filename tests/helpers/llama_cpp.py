"""Greedy answers by llama.cpp, in a process of its own: `python llama_cpp.py MODEL.gguf TOKENS`.

Reads a JSON list of prompts from standard input and writes the list of answers as its last line.
"""

import json
import subprocess
import sys
from pathlib import Path

PACKAGE = "xllamacpp==2026.10.11549"  # llama.cpp's server as a Python extension, without needs


def install(folder: Path) -> str | None:
    """Install the package into a folder; returns why it could not be, or None."""
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "-q", *options, "--target", str(folder)]
    done = subprocess.run([*command, PACKAGE], capture_output=True, text=True)
    said = done.stderr.strip().splitlines() or ["pip failed"]
    return None if done.returncode == 0 else said[-1]


def answers(installed: Path, model: Path, prompts: list[str], max_tokens: int) -> list[str]:
    """The answers of a GGUF file to prompts, of each at most so many tokens."""
    done = subprocess.run(
        [sys.executable, "-P", __file__, str(model), str(max_tokens)],
        input=json.dumps(prompts),
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(model: str, max_tokens: int) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 512, 1, 2
    params.warmup = False
    server = xllamacpp.Server(params)
    found = []
    for prompt in json.load(sys.stdin):
        asked = {"prompt": prompt, "n_predict": max_tokens, "temperature": 0, "repeat_penalty": 1.0}
        answer = server.handle_completions(asked)
        answer = answer if isinstance(answer, dict) else json.loads(answer)
        found.append(answer["content"] if "content" in answer else answer["choices"][0]["text"])
    print(f"\n{json.dumps(found)}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

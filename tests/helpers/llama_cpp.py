"""llama.cpp in a process of its own: `python llama_cpp.py MODEL.gguf TOKENS` answers greedily.

Reads a JSON list of prompts from standard input and writes the list of answers as its last line.
`python llama_cpp.py MODEL.gguf` serves by HTTP until its standard input closes, and prints where.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


@contextmanager
def served(installed: Path, model: Path) -> Iterator[str]:
    """The address of llama.cpp's server for a GGUF file."""
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, str(model)],
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    try:
        yield next(line.split()[-1] for line in process.stdout if line.startswith("serves at "))
    finally:
        process.stdin.close()
        process.wait(60)


def server_of(model: str) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 512, 1, 2
    params.warmup = False
    return xllamacpp.Server(params)


def main(model: str, max_tokens: int) -> None:
    server = server_of(model)
    found = []
    for prompt in json.load(sys.stdin):
        asked = {"prompt": prompt, "n_predict": max_tokens, "temperature": 0, "repeat_penalty": 1.0}
        answer = server.handle_completions(asked)
        answer = answer if isinstance(answer, dict) else json.loads(answer)
        found.append(answer["content"] if "content" in answer else answer["choices"][0]["text"])
    print(f"\n{json.dumps(found)}")


def serve(model: str) -> None:
    server = server_of(model)
    print(f"serves at {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(sys.argv[1], int(sys.argv[2]))
    else:
        serve(sys.argv[1])

"""The installation of packages: pip's settings in the words of uv, and pip where uv is missing."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.install import read_settings, translate
from src import paths

LISTING = """\
:env:.find-links='/opt/wheels'
global.cert='/etc/ca.pem'
global.constraint='/etc/pip/constraints.txt'
global.extra-index-url='https://one.example/simple https://two.example/simple\\nfile:///three'
global.find-links='/elsewhere'
global.timeout='60'
install.no-binary='numpy,scipy'
install.timeout='180'
freeze.all='1'
"""


def test_the_environment_goes_before_the_section_and_that_before_global() -> None:
    found = read_settings(LISTING)
    assert found["find-links"] == "/opt/wheels" and found["timeout"] == "180"
    assert "all" not in found  # another command's


def test_settings_of_pip_in_the_words_of_uv() -> None:
    arguments, environment = translate(read_settings(LISTING))
    pairs = list(zip(arguments[::2], arguments[1::2], strict=True))
    assert ("--find-links", "/opt/wheels") in pairs
    assert ("--constraint", "/etc/pip/constraints.txt") in pairs
    assert [url for name, url in pairs if name == "--index"] == [
        "https://one.example/simple",
        "https://two.example/simple",
        "file:///three",
    ]
    assert [name for option, name in pairs if option == "--no-binary"] == ["numpy", "scipy"]
    assert ("--index-strategy", "unsafe-best-match") in pairs  # as pip chooses among indexes
    assert environment["SSL_CERT_FILE"] == "/etc/ca.pem"
    assert environment["UV_HTTP_TIMEOUT"] == "180"


def test_a_flag_counts_only_where_it_is_on() -> None:
    assert "--no-index" in translate({"no-index": "true"})[0]
    assert "--no-index" not in translate({"no-index": "false"})[0]


def test_what_uv_has_no_word_for_is_left_to_pip() -> None:
    with pytest.raises(KeyError, match="target"):
        translate({"target": "/somewhere"})


@pytest.mark.slow
def test_pip_installs_where_uv_is_not_to_be_had(tmp_path: Path) -> None:
    wheel = tmp_path / "wheels" / "spelltest-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("spelltest.py", "letters = 'abc'\n")
        info = "spelltest-1.0.dist-info"
        for name, text in {
            "METADATA": "Metadata-Version: 2.1\nName: spelltest\nVersion: 1.0\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }.items():
            archive.writestr(f"{info}/{name}", text)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")} | {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheel.parent),
        "PIP_CONFIG_FILE": os.devnull,
    }
    subprocess.run(
        [python, "-m", "scripts.install", "spelltest==1.0"],
        cwd=paths.ROOT,
        env=environment,
        check=True,
    )
    got = subprocess.run(
        [python, "-c", "import spelltest; print(spelltest.letters)"],
        capture_output=True,
        text=True,
    )
    assert got.stdout.strip() == "abc", got.stderr

"""Install packages with uv, or with pip where uv is not to be had.

`python -m scripts.install ARGUMENTS` takes what `pip install` takes and installs into the
environment of that Python. uv does it in a fraction of pip's time, but reads none of pip's
settings: pip.conf and PIP_* are translated (docs.astral.sh/uv/pip/compatibility). Needs nothing
beside Python and pip, as it runs before anything else is installed.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

# Settings of pip that take values, and the option of uv that means the same.
OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
    "no-binary": "--no-binary",
    "only-binary": "--only-binary",
    "keyring-provider": "--keyring-provider",
}
FLAGS = {
    "no-index": "--no-index",
    "pre": "--prerelease=allow",
    "no-cache-dir": "--no-cache",
    "require-hashes": "--require-hashes",
}
ENVIRONMENT = {
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
# Settings that change nothing about which packages are installed, or where.
IRRELEVANT = {
    "break-system-packages",
    "cache-dir",
    "config-file",
    "debug",
    "disable-pip-version-check",
    "log",
    "no-color",
    "no-input",
    "prefer-binary",
    "progress-bar",
    "quiet",
    "require-virtualenv",
    "resume-retries",
    "retries",
    "root-user-action",
    "verbose",
}
OFF = {"", "0", "false", "no", "off", "f", "n"}


def read_settings(listing: str) -> dict[str, str]:
    """Settings that `pip install` would obey, from the output of `pip config list`.

    The environment goes before the section [install], and that before [global].
    """
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        if match := re.fullmatch(r"(global|install|:env:)\.([\w-]+)=(.*)", line):
            found[match[1]][match[2]] = ast.literal_eval(match[3])
    return found["global"] | found["install"] | found[":env:"]


def translate(settings: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The arguments and environment variables of uv that mean the same as these settings of pip.

    Raises KeyError for a setting that uv has no word for.
    """
    # pip takes the best version that any index has, uv the first index that knows the package;
    # pip trusts the certificates of the system, uv those that it brings.
    arguments, environment = ["--index-strategy", "unsafe-best-match"], {"UV_SYSTEM_CERTS": "1"}
    for name, value in settings.items():
        if name in OPTIONS:
            separator = r"[\s,]+" if name.endswith("-binary") else r"\s+"
            for part in re.split(separator, value.strip()):
                arguments += [OPTIONS[name], part] if part else []
        elif name in ENVIRONMENT:
            environment[ENVIRONMENT[name]] = value
        elif name in FLAGS:
            arguments += [] if value.lower() in OFF else [FLAGS[name]]
        elif name not in IRRELEVANT:
            raise KeyError(name)
    return arguments, environment


def by_uv(packages: Sequence[str]) -> bool:
    """Install the packages with uv; false where that could not be done."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    listing = subprocess.run([*pip, "config", "list"], capture_output=True, text=True)
    try:
        arguments, environment = translate(read_settings(listing.stdout))
    except KeyError as setting:
        print(f"Installing with pip, as uv knows no setting like {setting} of your pip.conf")
        return False
    if subprocess.run([*pip, "install", "--quiet", "uv"], stderr=subprocess.DEVNULL).returncode:
        return False
    quiet = [] if sys.stderr.isatty() else ["--quiet"]  # a bar of progress for a person alone
    command = ["-m", "uv", "pip", "install", *quiet, "--python", sys.executable, *arguments]
    done = subprocess.run([sys.executable, *command, *packages], env=os.environ | environment)
    return done.returncode == 0


def main(packages: Sequence[str]) -> int:
    """Install the packages; return the exit status."""
    if by_uv(packages):
        return 0
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return subprocess.run([*pip, *packages]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

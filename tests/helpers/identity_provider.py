"""A small OpenID Connect provider on this machine, whose users log in by a click on their name."""

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from src.panel.access.tokens import write_private

CLIENT = {"client_id": "spelltune", "client_secret": "of the test"}
# {name on the page: claims}; what `forged` gets is signed with a key that nobody knows.
USERS: dict[str, dict[str, Any]] = {
    "ann": {"email": "Ann@lab.org", "email_verified": True},
    "bob": {"email": "bob@other.org", "email_verified": True},
    "eve": {"email": "eve@else.org", "email_verified": True},
    "unverified": {"email": "ann@lab.org", "email_verified": False},
    "silent": {"email": "ann@lab.org"},
    "nameless": {},
    "forged": {"email": "ann@lab.org", "email_verified": True},
}


ALLOWED = 'ann@lab.org: edit\n"*@other.org": read\n'


def set_up(home: Path, provider: str, port: int = 8501) -> None:
    """Have a panel whose HOME is this home know the provider, and who may come in."""
    settings = CLIENT | {
        "redirect_uri": f"http://127.0.0.1:{port}/oauth2callback",
        "cookie_secret": "x" * 40,
        "server_metadata_url": f"{provider}/.well-known/openid-configuration",
    }
    lines = [f'{name} = "{value}"' for name, value in settings.items()]
    lines += ["client_kwargs = {timeout = 120}"]  # for a machine that is busy
    write_private(home / ".streamlit" / "secrets.toml", "\n".join(["[auth]", *lines]))
    write_private(home / "access" / "allowed.yaml", ALLOWED)


@contextmanager
def providing() -> Iterator[str]:
    """Yields the address of the provider."""
    from joserfc import jwt
    from joserfc.jwk import RSAKey

    keys = {name: RSAKey.generate_key(2048, {"kid": "k"}) for name in ("own", "other")}
    asked: dict[str, dict[str, str]] = {}  # by code

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            given = {name: values[0] for name, values in query.items()}
            if path == "/.well-known/openid-configuration":
                self.answer(
                    {
                        "issuer": address, "authorization_endpoint": f"{address}/authorize",
                        "token_endpoint": f"{address}/token", "jwks_uri": f"{address}/jwks",
                        "response_types_supported": ["code"], "subject_types_supported": ["public"],
                        "id_token_signing_alg_values_supported": ["RS256"],
                        "code_challenge_methods_supported": ["S256"],
                    }
                )  # fmt: skip
            elif path == "/jwks":
                self.answer({"keys": [keys["own"].as_dict(private=False)]})
            elif path == "/authorize":
                links = []
                for name in USERS:
                    code = secrets.token_urlsafe()
                    asked[code] = {"user": name, "nonce": given.get("nonce", "")}
                    back = urlencode({"code": code, "state": given["state"]})
                    links.append(f'<p><a href="{given["redirect_uri"]}?{back}">{name}</a></p>')
                self.answer("".join(links))

        def do_POST(self) -> None:
            body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            code = asked.pop(body["code"][0])  # good for once
            claims = {
                "iss": address, "aud": CLIENT["client_id"], "sub": code["user"],
                "nonce": code["nonce"], "iat": int(time.time()), "exp": int(time.time()) + 60,
            } | USERS[code["user"]]  # fmt: skip
            key = keys["other" if code["user"] == "forged" else "own"]
            token = jwt.encode({"alg": "RS256", "kid": "k"}, claims, key)
            self.answer({"access_token": "a", "token_type": "Bearer", "id_token": token})

        def answer(self, content: Any) -> None:
            page = isinstance(content, str)
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if page else "application/json")
            self.end_headers()
            self.wfile.write((content if page else json.dumps(content)).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield address
        server.shutdown()

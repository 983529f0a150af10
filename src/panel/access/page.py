"""The pages of the login: whole in themselves, as nothing else of the panel is given out yet."""

from html import escape
from pathlib import Path
from string import Template

_FOLDER = Path(__file__).parent
_PAGE = Template((_FOLDER / "page.html").read_text(encoding="utf-8"))
_ICON = (_FOLDER.parent / "icon.svg").read_text(encoding="utf-8")

# At the end of each page of the panel.
WATCH = f"<script>\n{(_FOLDER / 'watch.js').read_text(encoding='utf-8')}</script>\n".encode()

_ASK = """\
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus{}>
{}<button>Open the panel</button>"""
_OTHER = '<a href="./log-in">Log in at {}</a><br><br>'
_HELP = (
    "The panel printed an address with a token when it was first started. "
    "<code>spelltune token new</code> makes another one on its machine."
)


def login_page(problem: str = "", *, provider: str | None = None) -> str:
    """HTML of the page that asks for a token, after a `problem` with the last one; `provider` is
    where people log in besides."""
    told = f'<p id="problem" role="alert">{escape(problem)}</p>\n' if problem else ""
    mark = ' aria-invalid="true" aria-describedby="problem"' if problem else ""
    other = _OTHER.format(escape(provider)) if provider else ""
    return _PAGE.substitute(
        icon=_ICON, title="Log in", form=_ASK.format(mark, told), help=other + _HELP
    )


def log_out_page() -> str:
    """HTML of the page that asks whether this browser shall be logged out."""
    text = 'You will need a token to come back. <a href="./">Stay in the panel</a>'
    return _PAGE.substitute(
        icon=_ICON, title="Log out", form="<button>Log this browser out</button>", help=text
    )

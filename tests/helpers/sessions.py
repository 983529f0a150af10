"""A session of the panel without a browser: all that a page offers can be sent, disabled or not."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlencode

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

SECONDS = 300


@dataclass
class Drawn:
    """What one run of a page's script sent."""

    messages: list[ForwardMsg] = field(default_factory=list)

    def elements(self) -> list[Any]:
        return [m.delta.new_element for m in self.messages if m.HasField("delta")]

    def buttons(self) -> list[Any]:
        return [e.button for e in self.elements() if e.HasField("button")]

    def tables(self) -> list[Any]:
        """The tables that can be edited, or could be if they were not disabled."""
        found = [e.dataframe for e in self.elements() if e.HasField("dataframe")]
        return [table for table in found if table.id]

    def text(self) -> str:
        return "\n".join(str(element) for element in self.elements())


class Session:
    """One WebSocket of a panel, under a cookie."""

    def __init__(
        self, address: str, cookie: str = "", *, resume: str = "", headers: Mapping[str, str] = {}
    ) -> None:
        """`resume` is the id of a session that was left."""
        self.page_hash = ""
        told = dict(headers) | ({"Cookie": cookie} if cookie else {})
        protocols: Any = ["streamlit", "none", resume] if resume else ["streamlit"]
        self._open = ExitStack()
        self.socket = self._open.enter_context(
            connect(
                address.replace("http", "ws", 1) + "/_stcore/stream",
                origin=cast("Any", address),
                additional_headers=told,
                subprotocols=protocols,
                max_size=None,
            )
        )

    def run(
        self, page: str, query: Mapping[str, Any] | None = None, *,
        press: str = "", edit: tuple[str, dict[str, Any]] | None = None,
    ) -> Drawn:  # fmt: skip
        """Open a page, press a button of it, or edit the first row of one of its tables."""
        message = BackMsg()
        asked = message.rerun_script
        asked.query_string = urlencode(query or {}, doseq=True)
        asked.page_name = "" if page == "overview" else page
        if press or edit:
            asked.page_script_hash = self.page_hash
        if press:
            asked.widget_states.widgets.add(id=press, trigger_value=True)
        if edit:
            key, values = edit
            changed = {"edited_rows": {"0": values}, "added_rows": [], "deleted_rows": []}
            asked.widget_states.widgets.add(id=key, string_value=json.dumps(changed))
        self.socket.send(message.SerializeToString())
        return self.drawn()

    def drawn(self) -> Drawn:
        found = Drawn()
        while True:
            message = ForwardMsg()
            message.ParseFromString(self.socket.recv(SECONDS, decode=False))
            found.messages.append(message)
            if message.HasField("navigation"):
                self.page_hash = message.navigation.page_script_hash
            if message.HasField("script_finished"):
                return found

    def close(self) -> None:
        self._open.close()

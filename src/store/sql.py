"""Expressions that SQLite and PostgreSQL write in different ways"""

from typing import Any

from sqlalchemy import String
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class caseless(FunctionElement[str]):
    """`src.text.caseless` of a text, as near as the database comes to it."""

    type = String()
    inherit_cache = True
    name = "caseless"  # in SQLite a function of ours: see sqlite.connect


class joined(FunctionElement[str]):
    """The texts of a JSON list with commas between; NULL where it is none or empty."""

    type = String()
    inherit_cache = True
    name = "joined"


@compiles(caseless)
def _caseless_in_sqlite(element: caseless, compiler: Any, **more: Any) -> str:
    return f"caseless({compiler.process(element.clauses, **more)})"


@compiles(caseless, "postgresql")
def _caseless_in_postgresql(element: caseless, compiler: Any, **more: Any) -> str:
    return f"lower(normalize({compiler.process(element.clauses, **more)}, NFC))"


@compiles(joined)
def _joined_in_sqlite(element: joined, compiler: Any, **more: Any) -> str:
    inner = compiler.process(element.clauses, **more)
    return f"(SELECT group_concat(value, ', ') FROM json_each({inner}))"


@compiles(joined, "postgresql")
def _joined_in_postgresql(element: joined, compiler: Any, **more: Any) -> str:
    inner = compiler.process(element.clauses, **more)
    listed = f"CASE WHEN json_typeof({inner}) = 'array' THEN {inner} ELSE '[]' END"
    return f"(SELECT string_agg(value, ', ') FROM json_array_elements_text({listed}) AS t(value))"

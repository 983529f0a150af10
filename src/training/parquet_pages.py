"""The pages of a Parquet file by their own headers: what they take once they are unpacked.

The sizes in the footer are what a reader is told, those in the headers what it makes room for.
"""

import struct
from dataclasses import dataclass
from typing import Any

# Types of Thrift's compact protocol, in which a header is written.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
_MAX_DEPTH = 8  # a header nests structures three deep
MAX_FIELDS = 500_000  # in all headers of a file: about ten in each of 50,000 pages

# Fields of PageHeader in parquet.thrift. The structures of both kinds of data page begin with the
# number of values.
_UNPACKED, _PACKED, _DATA, _DATA_V2 = 2, 3, 5, 8


@dataclass
class Pages:
    """The pages of one column in one row group."""

    unpacked_bytes: int = 0
    values: int = 0
    fields: int = 0  # of their headers


def pages_of(content: bytes, column: Any, most: int = MAX_FIELDS) -> Pages:
    """The pages of a column chunk (pyarrow's ColumnChunkMetaData) of the file. ValueError where
    they cannot be followed, or have more than `most` fields in their headers."""
    start = column.data_page_offset
    if 0 < (column.dictionary_page_offset or 0) < start:
        start = column.dictionary_page_offset
    end = start + column.total_compressed_size
    if not 0 <= start <= end <= len(content):
        raise ValueError("a column lies outside of the file")
    found = Pages()
    while start < end:
        reader = _Reader(content, start, most - found.fields)
        header = reader.structure()
        packed, unpacked = header.get(_PACKED, -1), header.get(_UNPACKED, -1)
        if (
            not isinstance(packed, int)
            or not isinstance(unpacked, int)
            or min(packed, unpacked) < 0
        ):
            raise ValueError("the header of a page is damaged")
        found.unpacked_bytes += unpacked
        for kind in (_DATA, _DATA_V2):
            about = header.get(kind)
            count = about.get(1, 0) if isinstance(about, dict) else 0
            found.values += max(count, 0) if isinstance(count, int) else 0
        found.fields += reader.read
        start = reader.at + packed
    return found


class _Reader:
    """Reads one structure of Thrift's compact protocol."""

    def __init__(self, content: bytes, at: int, most: int):
        self.content, self.at, self.most, self.read = content, at, most, 0

    def structure(self, depth: int = 0) -> dict[int, Any]:
        """{number of a field: value}, of the fields that hold a number or a structure."""
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            self._count(depth)
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._integer()
            value = None if kind in (_TRUE, _FALSE) else self._value(kind, depth)
            if value is not None:
                fields[number] = value
        return fields

    def _count(self, depth: int) -> None:
        """Count a field or a part of a list."""
        self.read += 1
        if self.read > self.most or depth > _MAX_DEPTH:
            raise ValueError("the headers of its pages are too long or nested too deeply")

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _STRUCT:
            return self.structure(depth + 1)
        if kind == _BINARY:
            self._skip(self._natural())
        elif kind in (_TRUE, _FALSE, _BYTE):
            self._skip(1)
        elif kind == _DOUBLE:
            self._skip(struct.calcsize("d"))
        elif kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._natural()
            for _ in range(count):
                self._count(depth + 1)
                self._value(head & 15, depth + 1)
        else:
            raise ValueError("the header of a page is damaged")
        return None

    def _byte(self) -> int:
        if not self.at < len(self.content):
            raise ValueError("the header of a page is cut off")
        self.at += 1
        return self.content[self.at - 1]

    def _skip(self, count: int) -> None:
        self.at += count

    def _natural(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("the header of a page is damaged")

    def _integer(self) -> int:
        value = self._natural()
        return (value >> 1) ^ -(value & 1)  # zigzag

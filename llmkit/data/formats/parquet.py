"""Parquet: columns with types, read some rows at a time, as many as their bytes allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from llmkit.data.decoding.packing import RATIO, ROOM
from llmkit.data.files import LONGEST, Part, Place
from llmkit.data.formats.base import FileReader, Format, Rows
from llmkit.system.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS = 1024
"""Rows that are read at once, where they aren't large."""
BYTES = 2**24
"""About as many bytes of rows are held at once."""
FEW = 4096
"""Bytes of a text up to which it is short; longer ones are read one by one."""
VALUES = 1000
"""Values in a byte of the file, at most: a column of one value takes next to nothing."""
SHARES = 16
"""Into so many parts a group of rows is cut at most: who reads a part of one must unpack what stands before it."""


class Parquet(Format):
    """Rows by their number."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)
    rank: ClassVar[int] = 5
    compressed: ClassVar[bool] = True

    def rows(self, path: Path, reader: FileReader) -> Rows:
        """The rows with the types that they have; DataError with the number of the row where the file breaks off."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        part = reader.parts.get(path)
        number = 0 if part is None else part.line
        try:
            with pq.ParquetFile(path) as plain:
                texts = _short_texts(plain, _groups(plain.metadata, part))
                if part is None or part.start == 0:
                    _refuse_bomb(plain.metadata, path)
            with pq.ParquetFile(path, read_dictionary=texts) as file:  # what is there often is held once
                for row in _rows(file, path, part):
                    number += 1
                    yield row, Place(str(path), number)
        except (pa.ArrowException, OSError, ValueError) as error:
            where = Place(str(path), number + 1 if number else None)
            raise DataError(f"{where}: this parquet file can't be read: {error}.") from error

    def parts(self, path: Path, size: int) -> Iterator[tuple[Part, int]] | None:
        """Groups of rows, small ones together, and rows of a large one; None where the file can't be opened."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            about = pq.read_metadata(path)
        except (pa.ArrowException, OSError, ValueError):
            return None  # it is told when the file is read
        return _parts(about, size)


def _parts(about: pq.FileMetaData, size: int) -> Iterator[tuple[Part, int]]:
    start, stop, weight = 0, 0, 0
    for i in range(about.num_row_groups):
        group = about.row_group(i)
        stop, weight = stop + group.num_rows, weight + group.total_byte_size
        if weight < size and i < about.num_row_groups - 1:
            continue
        shares = max(1, min(weight // size, SHARES, stop - start))
        edges = [start + (stop - start) * share // shares for share in range(shares + 1)]
        yield from ((Part(first, last, first), weight // shares) for first, last in pairwise(edges))
        start, weight = stop, 0


def _groups(about: pq.FileMetaData, part: Part | None) -> list[tuple[int, int]]:
    """The groups that have rows of a part, each with the number of rows before it."""
    counts = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
    found = zip(range(len(counts)), accumulate(counts, initial=0), counts, strict=False)
    return [(i, before) for i, before, count in found
            if part is None or (before < part.stop and part.start < before + count)]


def _short_texts(file: pq.ParquetFile, groups: Sequence[tuple[int, int]]) -> list[str]:
    """Columns of text that take few bytes a row: one large text may stand in many rows of these."""
    names = {field.name for field in file.schema_arrow if _is_text(field.type)}
    sizes = dict.fromkeys(names, 0)
    rows = 0
    for group in (file.metadata.row_group(i) for i, _ in groups):
        rows += group.num_rows
        for column in map(group.column, range(group.num_columns)):
            if (name := column.path_in_schema) in sizes:
                sizes[name] += column.total_uncompressed_size
    return sorted(name for name, size in sizes.items() if size <= FEW * rows)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return any(test(kind) for test in (types.is_string, types.is_binary, types.is_large_string, types.is_large_binary))


def _refuse_bomb(about: pq.FileMetaData, path: Path) -> None:
    """DataError where a few bytes say that they hold very much."""
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    size, values = path.stat().st_size, sum(column.num_values for column in columns)
    unpacked = sum(column.total_uncompressed_size for column in columns)
    for count, most, what in ((values, VALUES * size + ROOM, "values"), (unpacked, RATIO * size + ROOM, "bytes")):
        if count > most:
            raise DataError(f"{path}: its {size:,} bytes hold {count:,} {what}; at most {most:,} are read.")


def _rows(file: pq.ParquetFile, path: Path, part: Part | None) -> Iterator[dict[str, Any]]:
    repeated = [i for i, field in enumerate(file.schema_arrow) if _is_kept(field.type)]
    for group, before in _groups(file.metadata, part):
        about = file.metadata.row_group(group)
        batches = file.iter_batches(batch_size=_at_once(about, file.schema_arrow), row_groups=[group])
        for batch in batches if part is None else _within(batches, part.start - before, part.stop - before):
            largest = _largest(batch)
            if largest > LONGEST:
                raise DataError(f"{path}: a row of {largest:,} bytes; at most {LONGEST:,} are read.")
            step = max(1, min(ROWS, BYTES // max(1, largest)))
            for start in range(0, len(batch), step):
                yield from _spelled_out(batch.slice(start, step), repeated).to_pylist()


def _within(batches: Iterator[pa.RecordBatch], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """What of batches are the rows start to stop, counted from their first; nothing behind them is read."""
    done = 0
    for batch in batches:
        if done + len(batch) > start:
            yield batch.slice(max(0, start - done), min(len(batch), stop - done) - max(0, start - done))
        done += len(batch)
        if done >= stop:
            return


def _spelled_out(batch: pa.RecordBatch, columns: Sequence[int]) -> pa.RecordBatch:
    """Each value in its row, for the columns whose values were held once."""
    for i in columns:
        batch = batch.set_column(i, batch.schema.names[i], batch.column(i).dictionary_decode())
    return batch


def _at_once(about: pq.RowGroupMetaData, schema: pa.Schema) -> int:
    """How many rows of a group take about BYTES, even where every value in lists is its column's largest."""
    texts = {field.name for field in schema if _is_kept(field.type)}
    row = 1
    for i in range(about.num_columns):
        column = about.column(i)
        unpacked, values, rows = column.total_uncompressed_size, column.num_values, max(1, about.num_rows)
        if column.path_in_schema in texts:
            row += unpacked // rows
        else:
            row += (unpacked if column.physical_type == "BYTE_ARRAY" else 16) * values // rows
    return max(1, min(ROWS, BYTES // row))


def _is_kept(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return bool(types.is_dictionary(kind))


def _largest(batch: pa.RecordBatch) -> int:
    """No row of a batch has more bytes of text in its columns than this."""
    import pyarrow.compute as pc

    total = 0
    for column in batch.columns:
        values = column.dictionary if _is_kept(column.type) else column
        if _is_text(values.type) and len(values):
            total += pc.max(pc.binary_length(values)).as_py() or 0
    return total

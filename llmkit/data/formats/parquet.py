"""Parquet: columns with types, read a thousand rows at a time."""

from pathlib import Path
from typing import ClassVar

from llmkit.data.files import Place
from llmkit.data.formats.base import FileReader, Format, Rows
from llmkit.system.errors import DataError


class Parquet(Format):
    """Rows by their number."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)
    rank: ClassVar[int] = 5
    compressed: ClassVar[bool] = True

    def rows(self, path: Path, reader: FileReader) -> Rows:
        """The rows with the types that they have; DataError with the number of the row where the file breaks off."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1024):
                    for row in batch.to_pylist():
                        number += 1
                        yield row, Place(str(path), number)
        except (pa.ArrowException, OSError, ValueError) as error:
            where = Place(str(path), number + 1 if number else None)
            raise DataError(f"{where}: this parquet file can't be read: {error}.") from error

"""What a log answers: rows, read as they are asked for, in the form that the asker likes."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

if TYPE_CHECKING:
    import polars


class Rows:
    """Rows that are made while they are read, so that memory stays flat; read again, made again.

    ``duckdb.sql`` and ``polars`` take them as they are, by the Arrow C stream.
    """

    def __init__(self, schema: pa.Schema, make: Callable[[], Iterable[pa.Table]]) -> None:
        self.schema = schema
        self._make = make

    def reader(self) -> pa.RecordBatchReader:
        """Return a reader that begins with the first row."""
        batches = (batch for table in self._make() for batch in table.to_batches())
        return pa.RecordBatchReader.from_batches(self.schema, batches)

    def to_arrow(self) -> pa.Table:
        """Return all rows in memory."""
        return self.reader().read_all()

    def to_polars(self) -> "polars.DataFrame":
        """Return all rows as a data frame of Polars, if that is installed."""
        import polars  # noqa: PLC0415  no part of the extra

        frame = polars.from_arrow(self.to_arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def to_pandas(self) -> Any:
        """Return all rows as a data frame of pandas, if that is installed.

        Its columns keep their Arrow types. As objects of Python, sums of decimals would be rounded
        to the 28 digits of Python's default context.
        """
        import pandas  # noqa: PLC0415  no part of the extra

        return self.to_arrow().to_pandas(types_mapper=pandas.ArrowDtype)

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Return what DuckDB answers of ``rows``: these, held by DuckDB, which may use the disk."""
        connection = connected()
        hold(connection, "rows", self)
        return answered(connection, query, ("rows",))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader().__arrow_c_stream__(requested_schema)


def connected() -> duckdb.DuckDBPyConnection:
    """Return a DuckDB that has what it is given, and takes no variable of ours for a table."""
    return duckdb.connect(config={"python_enable_replacements": False})


def answered(
    connection: duckdb.DuckDBPyConnection, query: str, names: Sequence[str]
) -> duckdb.DuckDBPyRelation:
    """Return what DuckDB answers of the tables ``names``.

    Raises:
        duckdb.CatalogException: There is no such table, and the message names those that there are.
    """
    try:
        return connection.sql(query)
    except duckdb.CatalogException as error:
        told = str(error).partition("\n")[0]
        if "Table with name" not in told:
            raise
        raise duckdb.CatalogException(f"{told} There are: {', '.join(names)}.") from None


def hold(connection: duckdb.DuckDBPyConnection, name: str, rows: Rows) -> None:
    """Let DuckDB keep rows as a table: a stream could be read but once in a query."""
    connection.register("arriving", rows.reader())
    connection.execute(f"create table {name} as select * from arriving")
    connection.unregister("arriving")

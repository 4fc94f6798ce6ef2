"""The peers of `compare_ingest` and `compare_publish`: from NDJSON bodies to one sorted Parquet file, in one go.

    peers_ingest.py PEER THREADS BODIES PART [DAY]

With DAY, a Parquet file of the same columns, PART has its rows and those of BODIES. Columns, types and order are
those of the schema table.
"""

import os
import sys
import tomllib
from pathlib import Path

TABLE = tomllib.loads((Path(__file__).parent / "../schemas/device_state.toml").read_text())
COLUMNS = TABLE["column"]
KEY = TABLE["key"]

# The same for all: what each does by itself differs.
LEVEL = 3
ROWS_OF_A_GROUP = 524_288

# What the archive itself writes; of an import it is the same in every row.
CONSTANTS = {
    "account_id": "01a7362d577a6c3019a474fd6f485823",
    "collected_at": None,
    "sweep_id": "bench",
    "source": "import",
    "unmapped": None,
}


def tree():
    """The bodies' structure: a column, or a dict of what is below, by key."""
    root = {}
    for column in COLUMNS:
        if "path" in column:
            *above, leaf = column["path"].split(".")
            here = root
            for name in above:
                here = here.setdefault(name, {})
            here[leaf] = column
    return root


def is_column(node):
    return isinstance(node.get("type"), str)


def duckdb(threads, bodies, part, day):
    import duckdb

    types = {"string": "VARCHAR", "boolean": "BOOLEAN", "int64": "BIGINT", "float64": "DOUBLE", "timestamp": "TIMESTAMP"}

    def type_of(node):
        if not is_column(node):
            return "STRUCT(" + ", ".join(f'"{name}" {type_of(below)}' for name, below in node.items()) + ")"
        if node["type"] == "list":
            return "STRUCT(" + ", ".join(f'{field["name"]} {types[field["type"]]}' for field in node["field"]) + ")[]"
        return types[node["type"]]

    def value(column):
        if "path" in column:
            return ".".join(f'"{name}"' for name in column["path"].split("."))
        constant = CONSTANTS[column["name"]]
        return f"CAST({'NULL' if constant is None else repr(constant)} AS {types[column['type']]})"

    columns = ", ".join(f"'{name}': '{type_of(below)}'" for name, below in tree().items())
    values = ", ".join(f"{value(column)} AS {column['name']}" for column in COLUMNS)
    rows = f"SELECT {values} FROM read_json('{bodies}', format = 'newline_delimited', columns = {{{columns}}})"
    if day:
        rows += f" UNION ALL SELECT * FROM read_parquet('{day}')"
    connection = duckdb.connect()
    connection.execute(f"SET threads = {threads}")
    options = f"FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {LEVEL}, ROW_GROUP_SIZE {ROWS_OF_A_GROUP}"
    connection.execute(f"COPY (SELECT * FROM ({rows}) ORDER BY {', '.join(KEY)}) TO '{part}' ({options})")


def polars(threads, bodies, part, day):
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    import polars

    types = {"boolean": polars.Boolean, "int64": polars.Int64, "float64": polars.Float64}

    def type_of(node):
        if not is_column(node):
            return polars.Struct({name: type_of(below) for name, below in node.items()})
        if node["type"] == "list":
            return polars.List(polars.Struct({field["name"]: types.get(field["type"], polars.String) for field in node["field"]}))
        return types.get(node["type"], polars.String)

    def value(column):
        name = column["name"]
        if "path" not in column:
            return polars.lit(CONSTANTS[name], dtype=polars.Datetime("us") if column["type"] == "timestamp" else polars.String).alias(name)
        first, *below = column["path"].split(".")
        found = polars.col(first)
        for key in below:
            found = found.struct.field(key)
        if column["type"] == "timestamp":
            found = found.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%#z", time_unit="us").dt.replace_time_zone(None)
        return found.alias(name)

    rows = polars.scan_ndjson(bodies, schema={name: type_of(below) for name, below in tree().items()})
    rows = rows.select([value(column) for column in COLUMNS])
    if day:
        rows = polars.concat([rows, polars.scan_parquet(day)])
    rows.sort(KEY).sink_parquet(part, compression="zstd", compression_level=LEVEL, row_group_size=ROWS_OF_A_GROUP)


def pyarrow(threads, bodies, part, day):
    import pyarrow
    import pyarrow.compute
    import pyarrow.json
    import pyarrow.parquet

    pyarrow.set_cpu_count(threads)
    types = {"boolean": pyarrow.bool_(), "int64": pyarrow.int64(), "float64": pyarrow.float64()}

    def type_of(node):
        if not is_column(node):
            return pyarrow.struct([(name, type_of(below)) for name, below in node.items()])
        if node["type"] == "list":
            return pyarrow.list_(pyarrow.struct([(field["name"], types.get(field["type"], pyarrow.string())) for field in node["field"]]))
        return types.get(node["type"], pyarrow.string())

    schema = pyarrow.schema([(name, type_of(below)) for name, below in tree().items()])
    read = pyarrow.json.read_json(
        bodies,
        read_options=pyarrow.json.ReadOptions(block_size=32 << 20, use_threads=threads > 1),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=schema),
    )

    def value(column):
        if "path" not in column:
            kind = pyarrow.timestamp("us") if column["type"] == "timestamp" else pyarrow.string()
            return pyarrow.repeat(pyarrow.scalar(CONSTANTS[column["name"]], kind), len(read))
        first, *below = column["path"].split(".")
        found = read[first]
        if below:
            found = pyarrow.compute.struct_field(found, below)
        if column["type"] == "timestamp":
            # It reads no zone of two digits.
            found = pyarrow.compute.utf8_slice_codeunits(found, 0, -3).cast(pyarrow.timestamp("us"))
        return found

    rows = pyarrow.table([value(column) for column in COLUMNS], names=[column["name"] for column in COLUMNS])
    if day:
        rows = pyarrow.concat_tables([rows, pyarrow.parquet.read_table(day)])
    rows = rows.sort_by([(name, "ascending") for name in KEY])
    pyarrow.parquet.write_table(rows, part, compression="zstd", compression_level=LEVEL, row_group_size=ROWS_OF_A_GROUP)


def main():
    peer, threads, bodies, part, *day = sys.argv[1:]
    peers = {"DuckDB": duckdb, "Polars": polars, "pyarrow": pyarrow}
    peers[peer](int(threads), bodies, part, day[0] if day else None)


main()

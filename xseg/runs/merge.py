"""The step `merge`: parts, shards and streams into one artifact."""

from collections.abc import Sequence
from dataclasses import replace

from xseg.artifacts.record import Record
from xseg.artifacts.schema import KINDS
from xseg.errors import Status
from xseg.runs.images import execute
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource


def merge(inputs: Sequence[str], runtime: Runtime) -> Status:
    """Join the images of all inputs, which must be of one run, into one artifact of that run.

    Raises:
        BadInput: mixed runs, images missing or there twice with different data.
    """
    per_image = [kind.name for kind in KINDS.values() if kind.per_image]
    source = RecordSource(
        inputs, per_image, allow_missing=runtime.allow_missing, notice=runtime.reporter.note, inherit_shard=False
    )
    # The identity stays that of the parts: joining changes no data.
    header = replace(source.header, shard="")

    def keep(records: Sequence[Record]) -> Sequence[Record]:
        return records

    return execute(
        runtime,
        header,
        source,
        lambda record: record,
        keep,
        total=len(source.expected),
        carried=lambda: source.failures,
    )

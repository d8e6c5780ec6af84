"""HDF5 artifacts: the schema, the guard, reading, writing, streams and parts. The only importer of h5py.

The format is specified in `docs/artifacts.md`.
"""

from xseg.artifacts.decode import Part
from xseg.artifacts.header import Header, Parent, WorkList
from xseg.artifacts.record import Failure, Record

__all__ = ["Failure", "Header", "Parent", "Part", "Record", "WorkList"]

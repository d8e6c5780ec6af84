"""The HDF5 library that artifacts are written with."""

import h5py


def hdf5_version() -> str:
    """Its version, not that of h5py."""
    return str(h5py.version.hdf5_version)


def has_gzip() -> bool:
    """Whether it can read and write gzip, which every artifact uses."""
    return bool(h5py.h5z.filter_avail(h5py.h5z.FILTER_DEFLATE))

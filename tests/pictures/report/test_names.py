from pathlib import PurePath

from hypothesis import given
from hypothesis import strategies as st

from xseg.pictures.report.names import short_names

PART = st.sampled_from(["a", "b", "cam.h5", "walk.h5"])
PATHS = st.lists(st.lists(PART, min_size=1, max_size=4).map("/".join), unique=True, max_size=6)


def test_names_are_as_short_as_tells_them_apart():
    assert short_names(["/x/1/cam.h5", "/x/2/cam.h5", "walk.h5"]) == ["1/cam.h5", "2/cam.h5", "walk.h5"]
    assert short_names(["cam.h5", "runs/cam.h5"]) == ["cam.h5", "runs/cam.h5"]
    assert short_names(["-", "cam.h5"]) == ["-", "cam.h5"]
    assert short_names(["a/b", "a/b"]) == ["a/b", "a/b"]


@given(PATHS)
def test_different_paths_have_different_names_that_they_end_in(paths):
    names = short_names(paths)
    assert len(set(names)) == len(paths)
    assert all(
        PurePath(path).parts[-len(PurePath(name).parts) :] == PurePath(name).parts
        for path, name in zip(paths, names, strict=True)
    )

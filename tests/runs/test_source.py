import os
import threading
from dataclasses import replace

import pytest

from tests.artifacts.build import encoded, failure, header, record, same, shards, write
from xseg.artifacts import Parent
from xseg.errors import BadInput
from xseg.runs.shards import Shard
from xseg.runs.source import RecordSource


def open_source(*paths, kinds=("heatmaps",), **options):
    return RecordSource([str(path) for path in paths], kinds, **options)


def indices(*paths, **options):
    return [one.index for one in open_source(*paths, **options)]


class Streams:
    """Bytes offered through FIFOs, each read once."""

    def __init__(self, folder):
        self._folder, self._threads = folder, []

    def __call__(self, data):
        path = self._folder / f"fifo{len(self._threads)}"
        os.mkfifo(path)
        self._threads.append(threading.Thread(target=self._send, args=(path, data)))
        self._threads[-1].start()
        return path

    def _send(self, path, data):
        with path.open("wb") as file:
            try:
                file.write(data)
                file.flush()
            except BrokenPipeError:
                pass  # the reader refused

    def join(self):
        for thread in self._threads:
            thread.join(timeout=20)


@pytest.fixture
def stream(tmp_path):
    found = Streams(tmp_path)
    yield found
    found.join()


@pytest.fixture(params=["file", "stream"])
def given(request, tmp_path, stream):
    """Bytes as a file or as a stream: both must be judged alike."""

    def offer(*blocks):
        if request.param == "stream":
            return stream(b"".join(blocks))
        path = tmp_path / "given.h5"
        path.write_bytes(b"".join(blocks))
        return path

    return offer


def data(found, head=None, failures=(), **options):
    head = head or header()
    return encoded([record(index, kind=head.kind, **options) for index in found], head, failures)


def test_all_images_are_given_in_order(given):
    source = open_source(given(data(range(2)), data([2]), data(range(3, 6))))
    found = list(source)
    assert all(same(one, record(index)) for index, one in enumerate(found))
    assert (len(found), source.failures, source.shard, source.expected) == (6, [], None, range(6))


@pytest.mark.parametrize("missing", [0, 3, 5])
def test_a_missing_image_is_noticed(given, missing):
    with pytest.raises(BadInput, match="1 of 6 images are missing") as error:
        list(open_source(given(data(set(range(6)) - {missing}))))
    assert "--allow-missing" in error.value.hint


def test_a_missing_part_is_noticed(given):
    with pytest.raises(BadInput, match=r"2 of 6 .* \(positions 4 to 5"):
        list(open_source(given(data(range(2)), data(range(2, 4)))))


def test_missing_images_can_be_allowed(given):
    assert indices(given(data([1, 4])), allow_missing=True) == [1, 4]


def test_failures_count_as_covered_and_are_passed_on(given):
    source = open_source(given(data([0, 2, 3], failures=[failure(1)]), data([5], failures=[failure(4)])))
    assert [one.index for one in source] == [0, 2, 3, 5]
    assert source.failures == [failure(1), failure(4)]


def test_a_failure_that_succeeded_in_another_part_is_none(given):
    source = open_source(given(data([0, 2, 3], failures=[failure(1), failure(4)]), data([1, 4, 5])))
    assert len(list(source)) == 6
    assert source.failures == []


def test_an_equal_copy_is_left_out_with_a_notice(given):
    notes = []
    part = data([2, 3], failures=[failure(1)])
    source = open_source(given(data([0]), part, part, data([4, 5])), notice=notes.append)
    assert [one.index for one in source] == [0, 2, 3, 4, 5]
    assert source.failures == [failure(1)]
    assert len(notes) == 2
    assert "twice" in notes[0]


def test_a_copy_with_other_data_is_bad_input(given):
    with pytest.raises(BadInput, match="different data"):
        list(open_source(given(data(range(6)), data([4], noise=1))))


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (header(seed=1), "run"),
        (header(7), "work list"),
        (replace(header(), work=replace(header().work, sha256="0" * 64)), "work list"),
        (replace(header(), classes=("a", "b", "c")), "classes"),
        (replace(header(kind="masks"), run=header().run), "kind"),
    ],
)
def test_mixed_inputs_are_bad_input(given, head, what):
    with pytest.raises(BadInput, match=f"its {what} differs"):
        list(open_source(given(data(range(3)), data(range(3, 6), head)), kinds=("heatmaps", "masks")))


def test_the_wrong_kind_says_what_makes_the_right_one(given):
    with pytest.raises(BadInput, match="holds masks, this step needs heatmaps") as error:
        list(open_source(given(data(range(6), header(kind="masks")))))
    assert "xseg explain" in error.value.hint


def test_a_stream_cut_between_two_parts_is_noticed_only_by_coverage(stream):
    source = open_source(stream(data(range(3))))
    found = iter(source)
    assert [next(found).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BadInput, match="missing"):
        next(found)


def test_the_parent_is_the_content_whatever_the_parts(tmp_path):
    whole = open_source(write(tmp_path / "whole.h5", range(6)))
    parts = [write(tmp_path / f"{span[0]}.h5", span) for span in ([4, 5], [0], [1, 2, 3])]
    assert whole.parent == open_source(*parts).parent
    content = header().content(record(index).digest for index in range(6))
    assert whole.parent == Parent("heatmaps", content)
    changed = write(tmp_path / "changed.h5", range(6), noise=1)
    assert open_source(changed).parent != whole.parent


def test_the_parent_of_a_stream_or_a_shard_is_its_run(tmp_path, stream):
    expected = Parent("heatmaps", f"run:{header().run}")
    source = open_source(stream(data(range(6))))
    assert source.parent == expected
    list(source)
    heads = shards(6, 2)
    files = [write(tmp_path / f"{i}.h5", heads[i].work and range(3 * i, 3 * i + 3), heads[i]) for i in range(2)]
    assert [open_source(file).parent for file in files] == [expected] * 2
    assert open_source(*files).parent.content == header().content(record(index).digest for index in range(6))


def test_one_shard_as_input_makes_one_shard_as_output(given):
    source = open_source(given(data(range(2, 4), shards(6, 3)[1])))
    assert (source.shard, source.expected) == (Shard(1, 3), range(2, 4))
    assert [one.index for one in source] == [2, 3]


def test_an_incomplete_shard_is_noticed(given):
    with pytest.raises(BadInput, match="1 of 2 images are missing"):
        list(open_source(given(data([2], shards(6, 3)[1]))))


def test_several_shards_together_make_the_whole(given):
    heads = shards(6, 3)
    source = open_source(given(*(data(range(2 * i, 2 * i + 2), heads[i]) for i in (1, 0, 2))))
    assert sorted(one.index for one in source) == list(range(6))
    assert (source.shard, source.expected) == (None, range(6))


def test_a_shard_that_was_forgotten_is_noticed(given):
    heads = shards(6, 3)
    with pytest.raises(BadInput, match="2 of 6 images are missing"):
        list(open_source(given(*(data(range(2 * i, 2 * i + 2), heads[i]) for i in (1, 0)))))


def test_a_shard_of_a_whole_input_can_be_chosen(given):
    source = open_source(given(data(range(6), failures=())), shard=Shard(1, 2))
    assert ([one.index for one in source], source.shard) == ([3, 4, 5], Shard(1, 2))


def test_failures_of_other_shards_are_not_passed_on(given):
    source = open_source(given(data([0, 1, 2, 5], failures=[failure(3), failure(4)])), shard=Shard(2, 3))
    assert ([one.index for one in source], source.failures) == ([5], [failure(4)])


def test_the_wrong_shard_is_noticed(given):
    with pytest.raises(BadInput, match="3 of 3 images are missing"):
        list(open_source(given(data(range(3), shards(6, 2)[0])), shard=Shard(1, 2)))


@pytest.mark.parametrize("shard", ["1/2", "x", "2/2", "1"])
def test_a_mark_that_does_not_fit_the_images_is_bad_input(given, shard):
    with pytest.raises(BadInput, match="shard"):
        list(open_source(given(data(range(3), replace(header(), shard=shard)))))


def test_merging_needs_the_whole_list_even_of_one_shard(given):
    with pytest.raises(BadInput, match="missing"):
        list(open_source(given(data(range(3), shards(6, 2)[0])), inherit_shard=False))


def test_files_and_streams_can_be_mixed(tmp_path, stream):
    file = write(tmp_path / "a.h5", range(3))
    assert indices(file, stream(data(range(3, 6)))) == list(range(6))


def test_damage_in_the_middle_is_bad_input(tmp_path):
    found = bytearray(data(range(6), maps=2))
    start = found.index(record(4, maps=2).arrays["maps"].tobytes())
    found[start] ^= 1
    (tmp_path / "a.h5").write_bytes(found)
    source = iter(open_source(tmp_path / "a.h5"))
    assert [next(source).index for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(BadInput, match="digest"):
        next(source)


def test_an_empty_work_list_is_whole(given):
    assert indices(given(encoded([], header(0)))) == []

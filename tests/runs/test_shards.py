import pytest
from hypothesis import given
from hypothesis import strategies as st

from xseg.errors import UsageError
from xseg.runs.shards import Shard, positions


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_shards_partition_any_list_into_nearly_equal_slices(total, count):
    ranges = [Shard(number, count).range(total) for number in range(count)]
    assert [index for found in ranges for index in found] == list(range(total))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@given(st.integers(1, 999_999_999).flatmap(lambda count: st.tuples(st.integers(0, count - 1), st.just(count))))
def test_what_is_printed_is_parsed(pair):
    shard = Shard(*pair)
    assert Shard.parse(str(shard)) == shard
    assert positions(str(shard), 10) == shard.range(10)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "1",
            "/",
            "1/",
            "/2",
            "2/2",
            "3/2",
            "0/0",
            "-1/2",
            "1/2/3",
            " 1/2",
            "1/2 ",
            "1.0/2",
            "²/3",
            "1/٣",
            "+0/1",
        ),
        "0/" + "9" * 5000,
    ],
)
def test_anything_else_is_a_usage_error(text):
    with pytest.raises(UsageError, match="I/N"):
        Shard.parse(text)


def test_without_a_shard_every_position_is_meant():
    assert positions("", 7) == range(7)

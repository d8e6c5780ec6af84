"""A background chosen by area prior, in every command that has one."""

import re

import numpy as np
import pytest

from tests.cli.read import content, records

AS_THEY_ARE = ("--iterations", 0)  # the refinement would move the edges


@pytest.fixture(scope="module")
def maps(chain, run, tmp_path_factory):
    """Heatmaps without and with a background; those of the chain's hardly trained classifier are empty."""
    directory = tmp_path_factory.mktemp("maps")
    at = {name: directory / f"{name}.h5" for name in ("seeds", "walked")}
    run("explain", chain.cls, chain.data, "--method", "random", "-o", at["seeds"])
    run("random-walk", at["seeds"], chain.affinity, "--log-steps", 1, "-o", at["walked"])
    return at


def params(run, path):
    return run("info", path, "--json").json["params"]


def mean_share(path, name="masks", background=0):
    return np.mean([(record.arrays[name] != background).mean() for record in records(path)])


@pytest.mark.parametrize("kind", ["seeds", "walked"])
def test_masks_have_the_share_that_was_asked_for(chain, run, maps, tmp_path, kind):
    out = tmp_path / "masks.h5"
    told = run("crf", maps[kind], "--masks", "--foreground-share", 0.3, *AS_THEY_ARE, "-o", out).stderr
    assert mean_share(out) == pytest.approx(0.3, abs=3e-3)
    share = re.search(r"a mean foreground share of (\S+) over 24 images", told)
    assert mean_share(out) == pytest.approx(float(share[1]), abs=1e-4)
    found = params(run, out)
    again = tmp_path / "again.h5"
    by = ("--alpha", found["alpha"]) if kind == "seeds" else ("--background-weight", found["background_weight"])
    run("crf", maps[kind], "--masks", *by, *AS_THEY_ARE, "-o", again)
    ours, theirs = records(out), records(again)
    assert all(np.array_equal(a.arrays["masks"], b.arrays["masks"]) for a, b in zip(ours, theirs, strict=True))


def test_every_shard_finds_the_threshold_of_the_whole(chain, run, maps, tmp_path):
    command = ("crf", maps["seeds"], "--masks", "--foreground-share", 0.3, *AS_THEY_ARE)
    run(*command, "-o", tmp_path / "whole.h5")
    shards = [tmp_path / f"{number}.h5" for number in range(2)]
    for number, shard in enumerate(shards):
        run(*command, "--shard", f"{number}/2", "-o", shard)
    run("merge", *shards, "-o", tmp_path / "merged.h5")
    assert content(tmp_path / "merged.h5") == content(tmp_path / "whole.h5")


@pytest.mark.parametrize("mode", ["psa", "irn"])
def test_labels_are_sure_of_two_shares(chain, run, maps, tmp_path, mode):
    out = tmp_path / "labels.h5"
    run("crf", maps["seeds"], "--mode", mode, "--foreground-share", "0.15,0.4", *AS_THEY_ARE, "-o", out)
    labels = [record.arrays["labels"] for record in records(out)]
    assert np.mean([((one != 0) & (one != 255)).mean() for one in labels]) == pytest.approx(0.15, abs=2e-3)
    assert np.mean([(one != 0).mean() for one in labels]) == pytest.approx(0.4, abs=2e-3)


def test_a_walk_starts_from_the_exponent_and_evaluate_scores_at_the_threshold(chain, run, maps, tmp_path):
    walk, masks = tmp_path / "walk.h5", tmp_path / "masks.h5"
    run("random-walk", maps["seeds"], chain.affinity, "--foreground-share", 0.3, "--log-steps", 1, "-o", walk)
    run("crf", maps["seeds"], "--masks", "--foreground-share", 0.3, *AS_THEY_ARE, "-o", masks)
    alpha = params(run, walk)["alpha"]
    assert alpha == params(run, masks)["alpha"]
    scored = run("evaluate", maps["seeds"], "--foreground-share", 0.3, "--dataset", chain.data, "--json").json
    threshold = scored["background_threshold"]
    assert scored["foreground_share"] == 0.3
    assert alpha == pytest.approx(np.log(threshold) / np.log1p(-threshold), rel=1e-3)  # maxima of stored maps round
    told = run("evaluate", maps["walked"], "--foreground-share", 0.3, "--dataset", chain.data, "--json")
    assert told.json["foreground_share"] is None
    assert "argmax" in told.stderr


REFUSED = {
    "impossible": (("crf", "{cam}", "--masks", "--foreground-share", 0.3), 65, "the maps allow"),
    "no share": (("crf", "{seeds}", "--masks", "--foreground-share", 30), 2, "needed a number in (0, 1)"),
    "two for masks": (("crf", "{seeds}", "--masks", "--foreground-share", "0.1,0.3"), 2, "masks need one number"),
    "one for labels": (("crf", "{seeds}", "--foreground-share", 0.3), 2, "pseudolabels need two numbers"),
    "wrong order": (("crf", "{seeds}", "--foreground-share", "0.4,0.1"), 2, "comes first"),
    "exponent too": (("crf", "{seeds}", "--masks", "--foreground-share", 0.3, "--alpha", 3), 2, "exclude each other"),
    "exponents too": (("crf", "{seeds}", "--foreground-share", "0.1,0.3", "--alpha-low", 3), 2, "exclude each other"),
    "masks in": (("crf", "{masks}", "--masks", "--foreground-share", 0.3), 65, "this step needs heatmaps"),
    "weight": (("crf", "{walked}", "--masks", "--background-weight", 0), 2, "--background-weight 0.0"),
    "walked": (("random-walk", "{walked}", "{affinity}", "--foreground-share", 0.3), 65, "which walks along"),
    "walk's own": (
        ("random-walk", "{seeds}", "{affinity}", "--foreground-share", 0.3, "--alpha", 3), 2, "exclude each other",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused(chain, run, maps, tmp_path, case):
    words, status, text = REFUSED[case]
    at = {**maps, "cam": chain.cam, "masks": chain.masks, "affinity": chain.affinity}
    ended = run(*(str(word).format(**at) for word in words), "-o", tmp_path / "out.h5", status=status)
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out.h5").exists()


def test_a_stream_is_refused_as_it_is_read_twice(chain, run, maps, tmp_path):
    command = ("crf", "-", "--masks", "--foreground-share", 0.3, "-o", tmp_path / "out.h5")
    assert "reads its input twice" in run(*command, stdin=maps["seeds"], status=2).stderr

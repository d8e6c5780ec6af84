import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.cli.conftest import commands
from tests.cli.launch import ROOT, started
from tests.cli.read import content, records
from xseg.cli import app
from xseg.stages import STAGES

MADE = ("cls", "cam", "labels", "affinity", "walk", "masks", "seg")
OTHER = {
    "cls": ("--lr", 0.5),
    "cam": ("--flip",),
    "labels": ("--iterations", 1),
    "affinity": ("--lr", 0.5),
    "walk": ("--beta", 2),
    "masks": ("--iterations", 1),
    "seg": ("--lr", 0.5),
    "scores": ("--threshold", 0.5),
}
XSEG = f"{sys.executable} -m xseg"


def shell(script, directory, status=0):
    done = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", script], cwd=directory, capture_output=True, timeout=120,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(directory)},
    )  # fmt: skip
    assert done.returncode == status, done.stderr.decode()
    return done


@pytest.mark.parametrize("name", MADE)
def test_a_command_prints_the_finished_path_and_nothing_else(chain, name):
    ended = chain.ended[name]
    assert ended.status == 0
    assert ended.lines == [str(getattr(chain, name))]
    assert content(getattr(chain, name))


def test_evaluate_prints_one_json_object(chain):
    scores = chain.ended["scores"].json
    assert scores["protocol"] == "segmentation"
    assert scores["images"] == 24
    assert 0 <= scores["miou"] <= 1
    assert set(scores["per_class_iou"]) == {"background", *scores["classes"]}


@pytest.mark.parametrize("name", [*MADE, "scores"])
def test_off_a_terminal_nothing_colours_or_moves_the_cursor(chain, name):
    assert "\x1b" not in chain.ended[name].stderr
    assert "\r" not in chain.ended[name].stderr


@pytest.mark.parametrize("name", [*MADE, "scores"])
def test_a_finished_command_run_again_tells_the_result_at_once(chain, run, name):
    path = getattr(chain, name)
    before = path.stat()
    again = run(*commands(chain.directory)[name])
    assert again.stdout == chain.ended[name].stdout
    assert "complete already" in again.stderr
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in (*MADE, "scores") for mode in ("plain", "json")]
    + [(name, "pipe") for name in ("cam", "labels", "walk", "masks")],
)
def test_a_library_that_prints_does_not_reach_standard_output(chain, run, tmp_path, name, mode):
    out = tmp_path / "out.h5"
    command = [word for word in commands(chain.directory)[name][:-1] if word != "--json"]
    command += {"plain": [out], "json": [out, "--json"], "pipe": ["-"]}[mode]
    ended = run(*command, noise=True)
    assert "NOISE" in ended.stderr
    if mode == "pipe":
        out.write_bytes(ended.stdout)
        assert content(out) == content(getattr(chain, name))
    elif mode == "json":
        assert ended.json["protocol" if name == "scores" else "content"]
    else:
        assert ended.lines == [str(out)]


@pytest.mark.parametrize("name", [*MADE, "scores"])
def test_other_options_do_not_replace_an_output_unless_asked(chain, run, tmp_path, name):
    out = tmp_path / "out.h5"
    out.write_bytes(getattr(chain, name).read_bytes())
    command = (*commands(chain.directory)[name][:-1], out, *OTHER[name])
    refused = run(*command, status=73)
    assert refused.stderr.startswith(f"error: {out} exists and holds")
    assert "--overwrite" in refused.stderr
    assert out.read_bytes() == getattr(chain, name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]
    run(*command, "--overwrite")
    assert content(out) != content(getattr(chain, name))
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


@pytest.mark.parametrize("name", ["cls", "cam"])
def test_json_describes_the_result(chain, run, name):
    facts = run(*commands(chain.directory)[name], "--json").json
    assert facts["path"] == str(getattr(chain, name))
    assert facts["kind"] == {"cls": "classifier", "cam": "heatmaps"}[name]
    assert facts["content"] == content(getattr(chain, name))


def test_quiet_says_nothing_and_progress_never_only_keeps_notes(chain, run, tmp_path):
    assert run("explain", chain.cls, chain.data, "-q", "-o", tmp_path / "out.h5").stderr == ""


def test_refined_heatmaps_hold_the_posterior_whose_argmax_are_the_masks(chain, run, tmp_path):
    maps, masks, walked = (tmp_path / name for name in ("maps.h5", "masks.h5", "walked.h5"))
    run("crf", chain.cam, "--heatmaps", "--alpha", 3, "--sharpen", 2, "--dtype", "float32", "-o", maps)
    run("crf", chain.cam, "--masks", "--alpha", 3, "--sharpen", 2, "-o", masks)
    assert run("validate", maps).status == 0
    run("random-walk", maps, chain.affinity, "--steps", 0, "--dtype", "float32", "-o", walked)
    for refined, mask, walk in zip(records(maps), records(masks), records(walked), strict=True):
        values, ids = refined.arrays["maps"], refined.arrays["maps/class_id"]
        assert ids[0] == 0
        assert len(set(refined.arrays["maps/scale"].tolist())) == 1
        posterior = values * refined.arrays["maps/scale"][:, None, None]
        assert np.allclose(posterior.sum(0), 1, atol=1e-5)
        assert np.array_equal(ids[values.argmax(0)], mask.arrays["masks"])
        # Maps that bring a background walk with it: without a step, as they came, averaged over the grid's cells.
        assert np.array_equal(walk.arrays["maps/class_id"], ids)
        raw = walk.arrays["maps"] * walk.arrays["maps/scale"][:, None, None]
        inner = slice(8, -16)  # cells at the lower and right edge also average what lies beyond the image
        assert np.allclose(raw[:, inner, inner].sum(0), 1, atol=1e-4)


def test_a_walk_starts_from_shaped_maps(chain, run, tmp_path):
    walked = tmp_path / "walked.h5"
    run(
        "random-walk",
        chain.cam,
        chain.affinity,
        "--steps",
        0,
        "--alpha",
        3,
        "--root",
        2,
        "--dtype",
        "float32",
        "-o",
        walked,
    )
    for start, walk in zip(records(chain.cam), records(walked), strict=True):
        if not len(start.arrays["maps"]):
            continue
        lifted = np.sqrt(start.arrays["maps"].astype(np.float32))  # stored maps reach 1
        expected = torch.from_numpy(np.concatenate([(1 - lifted.max(0, keepdims=True)) ** 3, lifted]))[None]
        height, width = expected.shape[2:]
        padded = functional.pad(expected, (0, -width % 8, 0, -height % 8))
        cells = functional.interpolate(functional.avg_pool2d(padded, 8), size=padded.shape[2:], mode="bilinear")
        raw = walk.arrays["maps"] * walk.arrays["maps/scale"][:, None, None]
        np.testing.assert_allclose(raw, cells[0, :, :height, :width].numpy(), atol=1e-5)


@pytest.mark.slow
def test_steps_joined_by_pipes_give_what_files_give(chain, tmp_path):
    shell(f"{XSEG} crf {chain.walk} --masks -o masks-from-file.h5", tmp_path)
    script = (
        f"{XSEG} random-walk {chain.cam} {chain.affinity} --log-steps 3"
        f" | {XSEG} crf - --masks | tee masks.h5 | {XSEG} evaluate - --dataset {chain.data} --json"
    )
    scores = json.loads(shell(script, tmp_path).stdout)
    shell(f"{XSEG} merge masks.h5 -o joined.h5", tmp_path)
    assert records_equal(tmp_path / "joined.h5", tmp_path / "masks-from-file.h5")
    expected = chain.ended["scores"].json
    assert {**scores, "input": ""} == {**expected, "input": ""}


def records_equal(one, other):
    return [record.digest for record in records(one)] == [record.digest for record in records(other)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "cat 1.h5 0.h5 | {xseg} merge - -o out.h5",
        "{xseg} merge <(cat 0.h5) <(cat 1.h5) -o out.h5",
        "ls -d $PWD/?.h5 | {xseg} merge - -o out.h5",
        "{xseg} merge - -o out.h5 < <(cat 0.h5; cat 1.h5)",
        "cat 0.h5 1.h5 > both; {xseg} merge - -o out.h5 < both; rm both",
        "cat 0.h5 1.h5 | tee >(cat > copy) | {xseg} merge - -o out.h5; cmp copy <(cat 0.h5 1.h5) && rm copy",
    ],
)
def test_a_shell_can_bring_shards_in_any_way(chain, run, tmp_path, script):
    for number in range(2):
        run("crf", chain.cam, "--shard", f"{number}/2", "-o", tmp_path / f"{number}.h5")
    assert shell(script.format(xseg=XSEG), tmp_path).stdout.decode().strip() == "out.h5"
    assert content(tmp_path / "out.h5") == content(chain.labels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.h5", "1.h5", "out.h5"]


@pytest.mark.slow
def test_standard_output_that_is_a_file_gets_one_joined_artifact(chain, tmp_path):
    done = shell(f"{XSEG} explain {chain.cls} {chain.data} > out.h5", tmp_path)
    assert done.stdout == b""
    assert content(tmp_path / "out.h5") == content(chain.cam)
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


def test_an_explicit_dash_writes_the_artifact_too(chain, run, tmp_path):
    out = tmp_path / "out.h5"
    out.write_bytes(run("crf", chain.cam, "-o", "-").stdout)
    assert content(out) == content(chain.labels)


def test_artifact_bytes_do_not_go_into_the_log(chain, tmp_path):
    shell(f"{XSEG} explain {chain.cls} {chain.data} > log 2>&1", tmp_path, status=2)
    assert (tmp_path / "log").read_text().startswith("error: no -o, and standard output is the log that errors go to\n")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("{xseg} crf {cam} 2>&1 | cat > log", "log that errors go to"),
        ("SLURM_JOB_ID=1 bash -c '{xseg} crf {cam}; exit $?' > log", "log of a SLURM job"),
        ("(export SLURM_JOB_ID=1; exec bash -c 'SLURM_TASK_PID=$$ exec {xseg} crf {cam}') | cat > log", "SLURM job"),
    ],
)
@pytest.mark.slow
def test_a_forgotten_output_does_not_fill_a_log_with_artifacts(chain, tmp_path, script, told):
    done = shell(script.format(xseg=XSEG, cam=chain.cam), tmp_path, status=2)
    assert told in done.stderr.decode() + (tmp_path / "log").read_text()
    assert b"HDF" not in (tmp_path / "log").read_bytes()


@pytest.mark.parametrize(
    "script",
    [
        "SLURM_JOB_ID=1 bash -c '{xseg} crf {cam} > out.h5; exit $?' > log",
        "SLURM_JOB_ID=1 bash -c '{xseg} crf {cam} | {xseg} merge - -o out.h5; exit $?' > log",
        "(export SLURM_JOB_ID=1; exec bash -c 'SLURM_TASK_PID=$$ exec {xseg} crf {cam} -o -')"
        " | {xseg} merge - -o out.h5",
    ],
)
@pytest.mark.slow
def test_a_job_may_send_artifacts_where_its_script_says(chain, tmp_path, script):
    shell(script.format(xseg=XSEG, cam=chain.cam), tmp_path)
    assert content(tmp_path / "out.h5") == content(chain.labels)


@pytest.mark.slow
def test_closed_descriptors_are_told_or_do_not_matter(chain, tmp_path):
    assert b"standard output is closed" in shell(f"{XSEG} info {chain.cam} >&-", tmp_path, status=74).stderr
    shell(f"{XSEG} crf {chain.cam} -o out.h5 2>&- <&-", tmp_path)
    assert content(tmp_path / "out.h5") == content(chain.labels)
    done = shell(f"{XSEG} info nowhere.h5 2>&1 | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert done.stdout.split()[-1] in {b"66", b"141"}


@pytest.mark.parametrize("name", ["labels", "scores"])
def test_an_output_that_is_an_input_is_refused(chain, run, tmp_path, name):
    kept = tmp_path / "in.h5"
    kept.write_bytes(chain.masks.read_bytes() if name == "scores" else chain.cam.read_bytes())
    (tmp_path / "link.h5").symlink_to(kept)
    before = kept.read_bytes()
    command = {"labels": ("crf", kept), "scores": ("evaluate", kept, "--dataset", chain.data)}[name]
    for output in (kept, tmp_path / "link.h5", f"{tmp_path}/./in.h5"):
        assert "is an input" in run(*command, "-o", output, "--overwrite", status=2).stderr
    assert kept.read_bytes() == before


def test_what_a_link_points_at_is_replaced_and_the_link_stays(chain, run, tmp_path):
    (tmp_path / "there.h5").write_bytes(b"old")
    (tmp_path / "link.h5").symlink_to("there.h5")
    run("crf", chain.cam, "-o", tmp_path / "link.h5", "--overwrite")
    assert (tmp_path / "link.h5").is_symlink()
    assert content(tmp_path / "there.h5") == content(chain.labels)


def test_names_that_are_not_utf_8_are_refused_before_the_work(chain, run, tmp_path):
    told = run("crf", chain.cam, "-o", f"{tmp_path}/nu\udcff.h5", status=2).stderr
    assert "not UTF-8" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("environment", "status"), [
    ({"RANK": "", "WORLD_SIZE": ""}, 0),
    ({"RANK": "²", "WORLD_SIZE": "3"}, 2),
    ({"RANK": "0", "WORLD_SIZE": ""}, 0),
])  # fmt: skip
def test_ranks_that_are_no_numbers(chain, run, environment, status):
    run("info", chain.cam, env=environment, status=status)


def test_artifact_bytes_do_not_go_to_a_device_such_as_dev_null(chain, tmp_path):
    done = shell(f"{XSEG} explain {chain.cls} {chain.data} > /dev/null", tmp_path, status=2)
    assert done.stderr.startswith(b"error: no place for the result")


def test_a_reader_that_goes_away_ends_the_writer_quietly(chain, tmp_path):
    done = shell(f"({XSEG} crf {chain.cam}; echo $? >&2) | head -c 10 > /dev/null", tmp_path)
    assert done.stderr.decode().split() == ["141"]


def test_pixel_adaptive_averages_write_all_that_the_crf_writes_and_are_runs_of_their_own(chain, run, tmp_path):
    labels, maps, masks, cleaned, other = (tmp_path / f"{name}.h5" for name in ("l", "h", "m", "c", "o"))
    averages = ("--refine", "pixel-adaptive", "--dilations", "1,2,4")
    run("crf", chain.cam, *averages, "-o", labels)
    run("crf", chain.cam, "--heatmaps", "--alpha", 3, "--sharpen", 1, "--dtype", "float32", *averages, "-o", maps)
    run("crf", chain.cam, "--masks", "--alpha", 3, "--sharpen", 1, *averages, "-o", masks)
    run("crf", masks, "--masks", *averages, "-o", cleaned)
    run("crf", chain.cam, *averages, "--neighbour-weights", "pamr", "-o", other)
    assert [run("validate", path).status for path in (labels, maps, masks, cleaned, other)] == [0] * 5
    assert len({json.loads(run("info", path, "--json").stdout)["run"] for path in (labels, other, chain.labels)}) == 3
    for refined, mask in zip(records(maps), records(masks), strict=True):
        shares = refined.arrays["maps"] * refined.arrays["maps/scale"][:, None, None]
        assert np.allclose(shares.sum(0), 1, atol=1e-5)
        assert np.array_equal(refined.arrays["maps/class_id"][shares.argmax(0)], mask.arrays["masks"])


def test_an_input_may_be_a_list_of_paths(chain, run, tmp_path):
    names = tmp_path / "names"
    names.write_text(f"{chain.cam}\n")
    run("crf", "-", "-o", tmp_path / "out.h5", stdin=names)
    assert content(tmp_path / "out.h5") == content(chain.labels)


def test_several_runs_are_scored_side_by_side(chain, run):
    scores = run("evaluate", chain.cam, chain.walk, chain.masks, "--dataset", chain.data, "--json").json
    assert [entry["input"] for entry in scores["runs"]] == [str(chain.cam), str(chain.walk), str(chain.masks)]
    alone = chain.ended["scores"].json
    assert {key: value for key, value in scores["runs"][2].items() if key in alone} == {
        key: value for key, value in alone.items() if key in scores["runs"][2]
    }


def test_without_json_evaluate_keeps_standard_output_empty(chain, run):
    ended = run("evaluate", chain.masks, "--dataset", chain.data)
    assert ended.stdout == b""
    assert "mIoU" in ended.stderr


def test_info_and_validate_know_every_kind(chain, run):
    for name in (*MADE, "scores"):
        facts = run("info", getattr(chain, name), "--json").json
        assert facts["kind"] == next(row.writes for row in STAGES if row.name == facts["command"][1]) or name == "masks"
        assert run("validate", getattr(chain, name), "--json").json["problems"] == []


def test_the_chain_of_parents_leads_back_to_the_start(chain, run):
    parents = run("info", chain.masks, "--json").json["parents"]
    assert [(parent["kind"], parent["content"]) for parent in parents] == [("heatmaps", content(chain.walk))]
    parents = run("info", chain.walk, "--json").json["parents"]
    assert {parent["content"] for parent in parents} == {content(chain.cam), content(chain.affinity)}


def test_the_table_of_stages_holds_exactly_the_commands_that_exist():
    assert sorted(row.name for row in STAGES) == sorted(str(entry.name) for entry in app.registered_commands)


@pytest.mark.parametrize("name", [row.name for row in STAGES])
def test_every_help_has_an_example_to_copy(run, name):
    text = run(name, "-h").stdout.decode()
    assert re.search(rf"Example: xseg {name} ?\S*", text), text
    assert "-q" in text
    assert run(name, "--help").stdout.decode() == text


def test_help_lists_every_command_with_its_summary(run):
    text = " ".join(run("--help").stdout.decode().split())
    for row in STAGES:
        assert row.name in text
        assert row.summary.split(",")[0].rstrip(".") in text


def test_the_version_is_told(run):
    from xseg.version import __version__

    assert run("--version").lines == [f"xseg {__version__}"]


def test_help_imports_no_torch_and_is_quick():
    script = (
        "import sys, resource\n"
        "sys.argv = ['xseg', '--help']\n"
        "from xseg.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'h5py', 'timm', 'PIL', 'scipy', 'numba'} & set(sys.modules)\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print('RESULT', sorted(heavy), used.ru_utime + used.ru_stime)\n"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
        *_, heavy, used = done.stdout.splitlines()[-1].split()
        assert heavy == "[]"
        seconds.append(float(used))
    assert min(seconds) < 0.3


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("explain",), "Missing argument"),
        (("nonsense",), "nonsense"),
        (("explain", "a.h5", "b", "--nonsense"), "--nonsense"),
        (("explain", "{cls}", "{data}", "-o", "o.h5", "--method", "nonsense"), "nonsense"),
        (("explain", "{cls}", "{data}", "-o", "o.h5", "--shard", "3/3"), "--shard 3/3"),
        (("explain", "{cls}", "{data}", "-o", "o.h5", "--scales", "1,zero"), "--scales 1,zero"),
        (("explain", "{cls}", "{data}", "-o", "o.h5", "--map-size", "big"), "--map-size big"),
        (("explain", "{cls}", "{data}", "-o", "o.h5", "--targets", "unicorn"), "unicorn"),
        (("explain", "{cls}", "{data}", "-o", "o.h5", "--layer", "nowhere"), "nowhere"),
        (("explain", "{cls}", "{data}", "-o", "o.h5", "--dtype", "int3"), "int3"),
        (("explain", "{cls}", "{data}", "-o", "o.h5", "--device", "abacus"), "--device abacus"),
        (("explain", "{cls}", "{data}", "-o", "o.h5", "--progress", "maybe"), "--progress maybe"),
        (("crf", "{cam}", "-o", "o.h5", "--backend", "nonsense"), "nonsense"),
        (("crf", "{cam}", "-o", "o.h5", "--mode", "nonsense"), "--mode nonsense"),
        (("crf", "{cam}", "-o", "o.h5", "--thresholds", "0.3"), "--thresholds 0.3"),
        (("crf", "{cam}", "-o", "o.h5", "--root", "0"), "root"),
        (("crf", "{cam}", "-o", "o.h5", "--masks", "--posteriors"), "--posteriors"),
        (("crf", "{cam}", "-o", "o.h5", "--sign", "none"), "sign"),
        (("crf", "{cam}", "-o", "o.h5", "--sharpen", "0"), "sharpen"),
        (("crf", "{cam}", "-o", "o.h5", "--alpha", "3"), "--alpha"),
        (("crf", "{cam}", "-o", "o.h5", "--masks", "--alpha", "3", "--background", "0.2"), "exclude"),
        (("crf", "{cam}", "-o", "o.h5", "--masks", "--heatmaps"), "--heatmaps"),
        (("crf", "{cam}", "-o", "o.h5", "--refine", "nonsense"), "--refine nonsense"),
        (("crf", "{cam}", "-o", "o.h5", "--dilations", "1,2"), "--dilations belongs to --refine pixel-adaptive"),
        (
            ("crf", "{cam}", "-o", "o.h5", "--refine", "pixel-adaptive", "--bilateral-sxy", "50"),
            "--bilateral-sxy belongs to --refine dense-crf",
        ),
        (("crf", "{cam}", "-o", "o.h5", "--refine", "pixel-adaptive", "--backend", "lattice"), "--backend belongs"),
        (("crf", "{cam}", "-o", "o.h5", "--refine", "pixel-adaptive", "--dilations", "1.5"), "dilations"),
        (("crf", "{cam}", "-o", "o.h5", "--refine", "pixel-adaptive", "--neighbour-weights", "x"), "x: unknown"),
        (("crf", "{cam}", "-o", "o.h5", "--heatmaps", "--dtype", "int3"), "int3"),
        (("random-walk", "{cam}", "{affinity}", "-o", "o.h5", "--preset", "x"), "--preset x"),
        (("random-walk", "{cam}", "{affinity}", "-o", "o.h5", "--steps", "2", "--log-steps", "1"), "--log-steps"),
        (("random-walk", "{cam}", "{affinity}", "-o", "o.h5", "--radius", "0.5"), "radius"),
        (("random-walk", "{cam}", "{affinity}", "-o", "o.h5", "--dtype", "int3"), "int3"),
        (("random-walk", "{cam}", "{affinity}", "-o", "o.h5", "--root", "0"), "root above 0"),
        (("evaluate", "{cam}", "--dataset", "{data}", "--protocol", "x"), "--protocol x"),
        (("evaluate", "{cam}", "--dataset", "{data}", "--average", "x"), "average"),
        (("evaluate", "{cam}", "--dataset", "{data}", "--threshold", "0.1", "--tune-on", "val"), "--tune-on"),
        (("train-cls", "{data}", "--model", "timm:nonsense", "--weights", "none", "-o", "o.h5"), "nonsense"),
        (("train-cls", "{data}", "--model", "timm:resnet18", "--weights", "none", "--keep-head", "-o", "o.h5"),
         "--keep-head"),
        (("train-cls", "{data}", "--model", "timm:test_efficientnet", "--weights", "none", "--optimizer", "x",
          "-o", "o.h5"), "optimizer"),
        (("train-cls", "{data}", "--model", "timm:test_efficientnet", "--weights", "none", "--schedule", "x",
          "-o", "o.h5"), "schedule"),
        (("train-cls", "{data}", "--model", "timm:test_efficientnet", "--weights", "none", "--loss", "x",
          "-o", "o.h5"), "loss"),
        (("train-cls", "{data}", "--model", "timm:test_efficientnet", "--weights", "none", "--crop", "0",
          "-o", "o.h5"), "crop"),
        (("train-cls", "{data}", "--model", "timm:test_efficientnet", "--weights", "none", "--epochs", "0",
          "-o", "o.h5"), "epochs"),
        (("affinity-train", "{labels}", "{cls}", "--preset", "x", "-o", "o.h5"), "x"),
        (("affinity-train", "{labels}", "{cls}", "--layers", "nowhere", "-o", "o.h5"), "nowhere"),
        (("affinity-train", "{labels}", "{cls}", "--optimizer", "x", "-o", "o.h5"), "optimizer"),
        (("affinity-train", "{labels}", "{cls}", "--radius", "0", "-o", "o.h5"), "radius"),
        (("affinity-train", "{labels}", "{cls}"), "-o PATH"),
        (("evaluate", "{masks}", "--dataset", "{data}", "-o", "-"), "-o -"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_a_usage_error_that_names_it(chain, run, tmp_path, monkeypatch, args, told):
    at = {name: str(getattr(chain, name)) for name in (*MADE, "data")}
    named = [str(tmp_path / arg) if arg == "o.h5" else arg.format(**at) for arg in args]
    ended = run(*named, status=2)
    assert told in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_command_started_afresh_needs_nothing_from_this_process(chain, tmp_path):
    ended = started("crf", chain.walk, "--masks", "--json", "-o", tmp_path / "out.h5")
    assert ended.json["content"] == content(chain.masks)

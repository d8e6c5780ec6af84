"""The map of the program: one row per command, the kinds it reads and the kind it writes.

Help, documentation and tests derive from it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: as typed after `xseg`.
        reads: kinds of artifact, or `dataset`, in order of the arguments.
        writes: kind of artifact, or `text` / `pictures` / `page`.
        summary: one line for the help and the documentation.
    """

    name: str
    reads: tuple[str, ...]
    writes: str
    summary: str


STAGES = (
    Stage("train-cls", ("dataset",), "classifier", "Train a classifier from image-level labels."),
    Stage(
        "train-guided",
        ("dataset", "classifier"),
        "classifier",
        "Train a classifier whose heatmaps are segmentations, from labels and few masks.",
    ),
    Stage("explain", ("classifier", "dataset"), "heatmaps", "Explain a classifier: one heatmap per image and class."),
    Stage(
        "crf", ("heatmaps", "masks"), "pseudolabels", "Refine heatmaps by a dense CRF into confident labels or masks."
    ),
    Stage("affinity-train", ("pseudolabels", "classifier"), "affinity", "Learn which pixels belong together."),
    Stage("random-walk", ("heatmaps", "affinity"), "heatmaps", "Spread heatmaps along the learned affinity."),
    Stage("train-seg", ("masks",), "segmenter", "Train a segmentation network on masks of an earlier step."),
    Stage("segment", ("segmenter", "dataset"), "masks", "Segment images by a trained segmentation network."),
    Stage(
        "evaluate",
        ("heatmaps", "pseudolabels", "masks", "classifier"),
        "scores",
        "Score heatmaps, masks or classifiers against ground truth.",
    ),
    Stage("features", ("classifier", "dataset"), "features", "Keep the latent vector of every image, as a bank."),
    Stage("methods", (), "text", "List the explanation methods and their parameters."),
    Stage("info", ("any",), "text", "Say what an artifact holds and where it came from."),
    Stage("validate", ("any",), "text", "Check an artifact completely."),
    Stage("merge", ("any",), "any", "Join parts or shards into one artifact."),
    Stage(
        "export",
        ("masks", "segmenter"),
        "pictures",
        "Write artifacts as the files of other programs, or a segmenter as an ONNX file.",
    ),
    Stage("import", ("dataset",), "heatmaps", "Take in masks and heatmaps that other programs wrote."),
    Stage("show", ("heatmaps", "masks"), "pictures", "Draw heatmaps or masks over their photographs."),
    Stage("report", ("any",), "page", "Show a chain, its scores and its images on one HTML page."),
    Stage("slurm", (), "text", "Print a script that submits commands to a SLURM cluster."),
    Stage("doctor", (), "text", "Say what works on this machine, and what to do about the rest."),
    Stage("bench", (), "text", "Measure speed as ratios to published algorithms."),
    Stage("demo", (), "text", "Run the whole chain on built-in data."),
)


def stage(name: str) -> Stage:
    """The row of command `name`."""
    return next(row for row in STAGES if row.name == name)

"""The step `features`: classifier and data set in, a bank of latent vectors out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from xseg.artifacts.header import Header, Parent, WorkList
from xseg.artifacts.record import Record
from xseg.classifier.capture import module_at
from xseg.classifier.step import load_classifier
from xseg.datasets.index import Dataset
from xseg.device import resolve
from xseg.errors import Status
from xseg.features.latent import latent_images
from xseg.heatmaps.batches import default_batch_size
from xseg.heatmaps.step import Labels
from xseg.runs.given import Given, jobs_of, reader
from xseg.runs.images import execute
from xseg.runs.provenance import provenance
from xseg.runs.runtime import Runtime


@dataclass(frozen=True)
class FeatureOptions:
    """What decides the vectors.

    Attributes:
        layer: module path whose output is averaged over places; None: what the head reads.
        size: long side in pixels; None: the image as it is.
    """

    layer: str | None = None
    size: int | None = None


def features(source: str, dataset: Dataset, options: FeatureOptions, runtime: Runtime) -> Status:
    """Write the latent vector of every image.

    Args:
        source: path of the classifier, or `-`.
        dataset: images; their labels are kept beside the vectors where the classifier knows the classes.
        options: what decides the vectors.
        runtime: shared options; mixed precision is never used.

    Raises:
        UsageError: the network has no such layer, or it has no features to average.
    """
    device = resolve(runtime.device)
    _, content, classifier = load_classifier(source, device)
    if options.layer is not None:
        module_at(classifier.net, options.layer)
    labels = Labels(dataset, classifier.config.classes)
    batch_size = runtime.batch_size or default_batch_size(classifier)
    jobs = jobs_of(dataset, runtime.shard)

    def compute(batch: Sequence[Given]) -> list[Record]:
        images = [given.image for given in batch]
        vectors = latent_images(classifier, images, layer=options.layer, size=options.size, batch_size=batch_size)
        return [given.record({"latent": vector}) for given, vector in zip(batch, vectors, strict=True)]

    header = Header(
        "features",
        classifier.config.classes,
        "features",
        asdict(options),
        parents=(Parent("classifier", content),),
        argv=runtime.argv,
        extra={"layer": options.layer or ""},
        provenance=provenance(device, dataset),
        root=str(dataset.root.absolute()),
        work=WorkList.of(item.id for item in dataset.items),
        shard=str(runtime.shard) if runtime.shard else "",
    )
    read = reader(dataset, labels.of)
    return execute(runtime, header, jobs, read, compute, total=len(jobs), batch_size=batch_size)

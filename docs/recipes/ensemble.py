"""Average precision of classifiers and of the mean of their probabilities: python3 ensemble.py DATA LIST SIZE CLS...

Prints JSON: `members`, their mean average precisions; `ensemble`, that of the mean; `first_class`, those of the first
class alone; `cosine`, the mean squared cosine between two members' maps (input-x-gradient) of a present class.
"""

import json
import sys
from itertools import combinations

import numpy as np
import torch
from torch.nn import functional

from xseg.classifier.metrics import average_precision, mean_average_precision
from xseg.classifier.samples import label_matrix, whole_images
from xseg.classifier.step import load_classifier
from xseg.datasets import open_dataset
from xseg.heatmaps import Query, methods


def main(data: str, split: str, size: str, *paths: str) -> None:
    """Score and print."""
    dataset = open_dataset(data, split=split)
    labels = label_matrix(dataset)
    classifiers = [load_classifier(path, torch.device("cpu"))[2].eval() for path in paths]
    method = methods.create("input-x-gradient", [])
    probabilities = np.zeros((len(paths), *labels.shape))
    squared = []
    for places, images in whole_images(dataset, int(size), batch_size=16, workers=1):
        present = np.argwhere(labels[places] == 1)
        image, target = torch.from_numpy(present.T.copy())
        maps = []
        for number, classifier in enumerate(classifiers):
            given = classifier.normalise(images)
            with torch.no_grad():
                probabilities[number, places] = classifier.probabilities(classifier(given)).numpy()
            ids = tuple(dataset.items[place].id for place in places)
            if len(present):
                maps.append(method(classifier, Query(given, image, target, ids)).flatten(1))
        squared += [functional.cosine_similarity(a, b).square() for a, b in combinations(maps, 2)]
    each = [average_precision(scores, labels) for scores in probabilities]
    together = average_precision(probabilities.mean(0), labels)
    found = {
        "members": [mean_average_precision(values) for values in each],
        "ensemble": mean_average_precision(together),
        "first_class": [float(values[0]) for values in (*each, together)],
        "cosine": float(torch.cat(squared).mean()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

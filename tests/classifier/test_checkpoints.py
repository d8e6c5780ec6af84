"""Checkpoints of self-supervised training, as their training code saves them: the layouts are real, the numbers random.

SCAN: github.com/wvangansbeke/Unsupervised-Classification, scan.py and models/models.py; SeLa: yukimasano/self-label,
models/resnetv1.py and models/alexnet.py.
"""

import argparse

import pytest
import torch

from xseg.classifier import create
from xseg.classifier.checkpoints import find_network
from xseg.errors import BadInput, UsageError

WIDTH = 512


def linear(classes, width=WIDTH):
    return {"weight": torch.randn(classes, width), "bias": torch.randn(classes)}


def under(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.fixture(scope="module")
def body():
    torch.manual_seed(0)
    net = create("torchvision:resnet18", ("a",), weights="none").net
    return {key: torch.rand_like(v) if v.is_floating_point() else v for key, v in net.state_dict().items()
            if not key.startswith("fc.")}  # fmt: skip


def loaded(tmp_path, content, model="torchvision:resnet18", **options):
    torch.save(content, tmp_path / "w.pth")
    options = {"keep_head": True} | options
    return create(model, options.pop("classes", None), weights=str(tmp_path / "w.pth"), **options)


def same(classifier, body):
    state = classifier.net.state_dict()
    return all(torch.equal(state[key], value) for key, value in body.items())


def scan(body, heads, **more):
    content = under("backbone.", body)
    for number, head in enumerate(heads):
        content |= under(f"cluster_head.{number}.", head)
    return {"model": content, **more}


def test_scan_has_a_backbone_and_the_head_that_it_names_as_the_best(tmp_path, body):
    heads = [linear(7), linear(7), linear(7)]
    classifier = loaded(tmp_path, scan(body, heads, head=1))
    assert same(classifier, body)
    assert same(classifier, under("fc.", heads[1]))
    assert classifier.config.classes == tuple(f"cluster {k}" for k in range(7))
    assert classifier.config.activation == "softmax"
    checkpoint = {"model": under("module.", scan(body, heads)["model"]), "best_loss_head": 2, "epoch": 3}
    assert same(loaded(tmp_path, checkpoint), under("fc.", heads[2]))
    assert same(loaded(tmp_path, scan(body, heads)), under("fc.", heads[0]))


def test_clusters_may_be_given_names_but_not_the_wrong_number(tmp_path, body):
    content = scan(body, [linear(3)])
    assert loaded(tmp_path, content, classes=("x", "y", "z")).config.classes == ("x", "y", "z")
    with pytest.raises(BadInput, match=r"2 names, but .* has 3 classes"):
        loaded(tmp_path, content, classes=("x", "y"))


def sela(body):
    names = {"conv1": "0", "bn1": "1", **{f"layer{k}": str(3 + k) for k in range(1, 5)}}
    return {f"features.{names[key.split('.')[0]]}.{key.partition('.')[2]}": value for key, value in body.items()}


@pytest.mark.parametrize("heads", [1, 3])
def test_sela_numbers_its_stages_and_has_one_head_or_several(tmp_path, body, heads):
    given = [linear(11) for _ in range(heads)]
    content = sela(body)
    for number, head in enumerate(given):
        content |= under("top_layer." if heads == 1 else f"top_layer{number}.", head)
    classifier = loaded(tmp_path, under("module.", content))
    assert same(classifier, body)
    assert same(classifier, under("fc.", given[0]))
    assert classifier.config.classes[-1] == "cluster 10"


def test_the_resnet_50_of_the_paper_is_found_in_both_layouts(tmp_path):
    net = create("torchvision:resnet50", ("a",), weights="none").net.state_dict()
    body = {key: value for key, value in net.items() if not key.startswith("fc.")}
    head = linear(5, 2048)
    for content in (scan(body, [head], head=0), sela(body) | under("top_layer.", head)):
        classifier = loaded(tmp_path, content, "torchvision:resnet50")
        assert same(classifier, body | under("fc.", head))


def test_the_alexnet_of_self_supervision_is_loaded_with_its_clusters(tmp_path):
    # DeepCluster's and SeLa's numbers: conv, norm, ReLU, with pools after the first, second and fifth
    convolutions = {0: (96, 3, 11), 4: (256, 96, 5), 8: (384, 256, 3), 11: (384, 384, 3), 14: (256, 384, 3)}
    content = {}
    for number, (width, before, size) in convolutions.items():
        content |= under(f"features.{number}.", {"weight": torch.randn(width, before, size, size) * 0.02,
                                                 "bias": torch.zeros(width)})  # fmt: skip
        norm = ("weight", "bias", "running_mean", "running_var")
        content |= under(f"features.{number + 1}.", {name: torch.rand(width) for name in norm})
    content |= under("classifier.1.", linear(4096, 9216)) | under("classifier.4.", linear(4096, 4096))
    content |= under("top_layer.", linear(6, 4096))
    classifier = loaded(tmp_path, content, "xseg.classifier.alexnet:AlexNetBN")
    assert same(classifier, content)
    assert len(classifier.config.classes) == 6
    with torch.no_grad():
        assert classifier.eval()(torch.randn(1, 3, 100, 120)).shape == (1, 6)


def test_moco_gives_the_encoder_of_queries(tmp_path, body):
    other = {key: value + 1 for key, value in body.items()}
    content = under("module.encoder_k.", other) | under("module.encoder_q.", body)
    content |= under("module.encoder_q.fc.0.", linear(WIDTH)) | under("module.encoder_q.fc.2.", linear(128))
    content["module.queue"] = torch.randn(128, 64)
    content = {"state_dict": content, "arch": "resnet18"}
    assert same(loaded(tmp_path, content, classes=("a", "b"), keep_head=False), body)
    with pytest.raises(BadInput, match=r"no fc\.weight, so no head to keep"):
        loaded(tmp_path, content)


def test_prototypes_and_projections_beside_the_network_are_left_out(tmp_path, body):
    content = body | under("projection_head.0.", linear(WIDTH)) | {"prototypes.weight": torch.randn(30, 128)}
    assert same(loaded(tmp_path, under("module.", content), classes=("a", "b"), keep_head=False), body)


def test_dino_gives_its_teacher(tmp_path):
    vit = create("timm:test_vit", ("a", "b"), weights="none")
    own = {key: value for key, value in vit.net.state_dict().items() if not key.startswith("head.")}
    student = {key: value + 1 for key, value in own.items()}
    content = {
        "student": under("module.backbone.", student) | under("module.head.mlp.0.", linear(8, 64)),
        "teacher": under("backbone.", own) | under("head.mlp.0.", linear(8, 64)),
        "args": argparse.Namespace(arch="vit_small"),
    }
    assert same(loaded(tmp_path, content, "timm:test_vit", classes=("a", "b"), keep_head=False), own)
    assert same(loaded(tmp_path, own, "timm:test_vit", classes=("a", "b"), keep_head=False), own)


def test_two_networks_of_equal_rank_are_not_chosen_between(tmp_path, body):
    content = under("left.", body) | under("right.", body)
    with pytest.raises(BadInput, match=r"hold the network 2 times: under left\., right\."):
        loaded(tmp_path, content, classes=("a",), keep_head=False)


def test_an_incomplete_or_foreign_network_is_told_by_its_missing_names(tmp_path, body):
    content = under("backbone.", body)
    del content["backbone.layer2.0.conv1.weight"]
    with pytest.raises(BadInput, match="missing"):
        loaded(tmp_path, content, classes=("a",), keep_head=False)
    with pytest.raises(BadInput, match=r"unexpected layer5\.0\.weight"):
        loaded(tmp_path, under("net.", body | {"layer5.0.weight": torch.ones(1)}), classes=("a",), keep_head=False)


def test_a_cluster_head_of_another_width_is_no_head(tmp_path, body):
    with pytest.raises(BadInput, match="no head to keep"):
        loaded(tmp_path, scan(body, [linear(7, 128)]))


def test_names_of_a_plain_head_are_still_asked_for(tmp_path, body):
    with pytest.raises(UsageError, match=r"7 classes of .* have no known names"):
        loaded(tmp_path, body | under("fc.", linear(7)))


def test_a_network_without_a_body_is_left_to_the_loader():
    state = linear(2, 3)
    assert find_network(state, under("fc.", state), "fc", "w").state.keys() == state.keys()

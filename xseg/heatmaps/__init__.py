"""Explanation heatmaps: where in an image a classifier sees each class."""

from xseg.heatmaps import (  # noqa: F401 - importing registers the methods
    attention_gradient,
    class_activation,
    feature_gradient,
    full_gradient,
    gradient,
    masking,
    noise_gradient,
    path_gradient,
    perturbation,
    reference,
    relevance,
    rollout,
    score_cam,
    segmentation,
)
from xseg.heatmaps.inference import HeatmapSet, explain_images
from xseg.heatmaps.prediction import predict_images
from xseg.heatmaps.quantise import dequantise, quantise, stored_dtype
from xseg.heatmaps.registry import Method, Query, methods, require_served
from xseg.heatmaps.targets import Targets, parse_targets, resolve_targets
from xseg.heatmaps.views import Views

__all__ = [
    "HeatmapSet",
    "Method",
    "Query",
    "Targets",
    "Views",
    "dequantise",
    "explain_images",
    "methods",
    "parse_targets",
    "predict_images",
    "quantise",
    "require_served",
    "resolve_targets",
    "stored_dtype",
]

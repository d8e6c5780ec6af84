"""Image classifiers: any timm, torchvision or user network behind one interface."""

from xseg.classifier.capture import capture
from xseg.classifier.config import ClassifierConfig
from xseg.classifier.features import FeatureLayer, feature_layers
from xseg.classifier.model import Classifier, build, create

__all__ = ["Classifier", "ClassifierConfig", "FeatureLayer", "build", "capture", "create", "feature_layers"]

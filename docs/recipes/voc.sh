#!/usr/bin/env bash
# From image-level labels to scored masks on a VOC-style directory: the chain of docs/results.md, which is docs/recipes/best.sh
# without its segmenters.
#
#   TRAIN=VOC2012 TEST=VOC2012 OUT=out WEIGHTS=tf_efficientnet_lite0.safetensors bash docs/recipes/voc.sh
#
# TRAIN    root whose list TRAIN_SPLIT (default train_aug) trains the classifier and LABEL_SPLIT (default train) the
#          affinity: images and image-level labels only
# TEST     root whose list `val` is segmented and scored; its image-level labels are given, as the papers do
# OUT      directory for the artifacts; a run that was cut off continues where it stopped
# WEIGHTS  ImageNet weights of MODEL (default timm's tf_efficientnet_lite0)
# SEED     of both trainings (default 0); other variables and the switches are those of docs/recipes/best.sh and chain.sh
SEGMENTER=off source "$(dirname "$0")/best.sh"

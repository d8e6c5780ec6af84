#!/usr/bin/env bash
# The chain with psa's published numbers (Ahn and Kwak 2018, arXiv:1803.10464), on a VOC-style directory: CAM, confident labels by the
# CRF with both exponents, AffinityNet, random walk; then a segmentation network learns the walk's masks and segments without labels.
#
#   TRAIN=VOC2012 TEST=VOC2012 OUT=psa WEIGHTS=hub bash docs/recipes/psa.sh      (hours on a GPU)
#   MODEL=timm:tf_efficientnet_lite0 WEIGHTS=tf_efficientnet_lite0.safetensors STRIDE=16 TRAIN_CLS="--epochs 4 --crop 288" \
#       AFFINITY_TRAIN="--epochs 4 --batch-size 4" TRAIN_SEG="--epochs 10 --crop 320 --head lraspp" \
#       TRAIN=VOC2012 TEST=VOC2012 OUT=psa bash docs/recipes/psa.sh             (hours on two cores)
#
# MODEL    network of the classifier and of the segmenter (default timm:resnet50; psa has a ResNet-38 of its own)
# STRIDE   pixels per place of the features that CAM, AffinityNet and segmenter read (default 8)
# FREEZE   stages of the classifier that do not learn (default 2, of a ResNet the stem and the first one)
# The other variables are those of docs/recipes/chain.sh.
#
# Seeds, walk and its masks of `val` are scored with its labels given, the segmenter's masks without.
set -euo pipefail
source "$(dirname "$0")/chain.sh"
model=(--model "${MODEL:-timm:resnet50}") stride=(--output-stride "${STRIDE:-8}")

classifier "${model[@]}" --preset psa --freeze "${FREEZE:-2}"
for set in train val; do seeds "$set" --method cam "${stride[@]}" --scales 0.5,1,1.5,2 --flip; done
labels --alpha-low 4 --alpha-high 32
affinity --preset psa "${stride[@]}"
# The argmax of the walked maps is the mask, without another CRF.
for set in train val; do
    walk "$set" --preset psa
    masks "$set" walk --iterations 0
done
segmenter seg masks-train "${model[@]}" --weights "$WEIGHTS" "${stride[@]}"
segmented seg val seg-val --scales 0.5,0.75,1,1.25,1.5 --flip --crf

score cam-val
score walk-val
score masks-val
score seg-val

#!/usr/bin/env bash
# From image-level labels to scored masks on a VOC-style directory.
#
#   TRAIN=VOC2012 TEST=VOC2012 OUT=out WEIGHTS=tf_efficientnet_lite0.safetensors bash docs/recipes/voc.sh
#
# TRAIN    root whose list TRAIN_SPLIT (default train_aug) trains the classifier and LABEL_SPLIT (default train) the
#          affinity: images and image-level labels only
# TEST     root whose list `val` is segmented and scored; its image-level labels are given, as the papers do
# OUT      directory for the artifacts; a run that was cut off continues where it stopped
# WEIGHTS  ImageNet weights of MODEL (default timm's tf_efficientnet_lite0)
# SEED     of both trainings (default 0)
set -euo pipefail
: "${TRAIN:?root of the training images}" "${TEST:?root of the test images}" "${OUT:?output directory}" "${WEIGHTS:?file}"
model=${MODEL:-timm:tf_efficientnet_lite0} xseg=${XSEG:-xseg}
train_split=${TRAIN_SPLIT:-train_aug} label_split=${LABEL_SPLIT:-train} seed=${SEED:-0}
mkdir -p "$OUT"

# The network learns at its native stride of 32 and is read at 16: the weights are the same, the maps twice as fine.
# Its head starts as a blend of the weights' own classes, so that little training is enough; going half of the way back to
# the start keeps the features general.
$xseg train-cls "$TRAIN" --split "$train_split" --model "$model" --weights "$WEIGHTS" \
    --no-head-bias --head-init transfer --epochs 4 --interpolate 0.5 --seed "$seed" --batch-size 16 \
    --resize-low 256 --resize-high 400 --crop 288 --freeze 6 --freeze-bn --freeze-bn-affine --optimizer adamw \
    --lr 0.0002 --head-lr-multiplier 5 --weight-decay 0.01 --warmup 0.12 --balance 0.5 -o "$OUT/cls.h5"

views=(--method cam --output-stride 16 --scales 0.5,1,1.5,2 --flip)
$xseg explain "$OUT/cls.h5" "$TRAIN" --split "$label_split" "${views[@]}" -o "$OUT/cam-train.h5"
$xseg explain "$OUT/cls.h5" "$TEST" --split val "${views[@]}" -o "$OUT/cam-val.h5"

# The seeds' best threshold is near 0.36, so exponents far below psa's 4 and 32 suit their background.
$xseg crf "$OUT/cam-train.h5" --alpha-low 1.5 --alpha-high 6 -o "$OUT/labels.h5"
$xseg affinity-train "$OUT/labels.h5" "$OUT/cls.h5" --output-stride 16 --standardise \
    --layers blocks.1,blocks.2,blocks.4,blocks.6,image --widths 16,32,64,128,16 --features 64 \
    --epochs 4 --crop 448 --batch-size 4 --lr 0.003 --weight-decay 0.001 --jitter 0 --seed "$seed" \
    -o "$OUT/affinity.h5"
$xseg random-walk "$OUT/cam-val.h5" "$OUT/affinity.h5" --beta 8 --steps 48 --alpha 3 --shares -o "$OUT/walk-val.h5"
# Walked maps are flat: their shares are told apart again before the CRF.
$xseg crf "$OUT/walk-val.h5" --masks --sharpen 4 --bilateral-sxy 50 --bilateral-srgb 5 -o "$OUT/masks-val.h5"

score=($xseg evaluate --dataset "$TEST" --split val --json)
"${score[@]}" "$OUT/cam-val.h5" --threshold "${SEED_THRESHOLD:-0.36}"
"${score[@]}" "$OUT/walk-val.h5"
"${score[@]}" "$OUT/masks-val.h5"

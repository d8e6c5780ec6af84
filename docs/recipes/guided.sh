#!/usr/bin/env bash
# Segmentation by guided heatmaps with few masks, beside U-Nets that learn from the same (paper 000).
#
#   DATA=VOC2012 NETWORK="--model timm:resnet50 --weights hub" OUT=guided bash docs/recipes/guided.sh
#
# DATA     data set with masks; those of TUNE only score
# NETWORK  arguments of train-cls: the network that is guided
# DECODER  options of the U-Nets' decoder (default: --model-set width=16), for as many weights as NETWORK has
# SCRATCH  network of the U-Net from scratch: --model multi-task-unet --model-set encoder=resnet50
# OUT      directory for the artifacts; a run that was cut off continues where it stopped
# TRAIN    list to train on (default train), VAL list to score (default val)
# MASKS    numbers of masks (default: 20 100 500 1464); fewer are a part of more
# RUNS     which of: guided mt-unet unet scratch (default: the first three)
#            guided   heatmaps of the network, by HEATMAP (default: lrp --set composite=epsilon --normalise rms)
#            mt-unet  a decoder with a head of its own on the same network, from masks and labels
#            unet     the same from masks alone
#            scratch  the same from masks alone, and from random weights
# FIRST    arguments of the classification before (default: --epochs 10), LEARN of the guidance (default: --epochs 10)
# SEEDS    default: 0
# SIZE     long side of the images in pixels that are scored (default 256)
# XSEG     how xseg is called (default xseg)
set -euo pipefail
: "${DATA:?data set}" "${NETWORK:?arguments of train-cls}" "${OUT:?output directory}"
xseg=${XSEG:-xseg}
train=${TRAIN:-train} val=${VAL:-val} size=${SIZE:-256}
mkdir -p "$OUT"

# shellcheck disable=SC2086
$xseg train-cls "$DATA" $NETWORK --split "$train" --crop "$size" ${FIRST:---epochs 10} -o "$OUT/classifier.h5"
decoder="--heatmap segmentation-head ${DECODER:---model-set width=16}" masks_alone="--classification-weight 0 --mask-share 1"

guide() {  # name, masks, seed, arguments
    local out=$OUT/$1-$2-seed$3 masks=$2 seed=$3
    shift 3
    # shellcheck disable=SC2086
    $xseg train-guided "$DATA" --split "$train" --masks "$masks" --seed "$seed" --crop "$size" "$@" ${LEARN:---epochs 10} -o "$out.h5"
    $xseg explain "$out.h5" "$DATA" --split "$val" --method guided --targets all --size "$size" -o "$out-maps.h5"
    $xseg evaluate "$out-maps.h5" --dataset "$DATA" --split "$val" --json > "$out.json"
    $xseg evaluate "$out.h5" --protocol classification --dataset "$DATA" --split "$val" --size "$size" --json \
        > "$out-classification.json"
}

for seed in ${SEEDS:-0}; do
    for masks in ${MASKS:-20 100 500 1464}; do
        for run in ${RUNS:-guided mt-unet unet}; do
            # shellcheck disable=SC2086
            case $run in
                guided) arguments="$OUT/classifier.h5 --heatmap ${HEATMAP:-lrp --set composite=epsilon --normalise rms}" ;;
                mt-unet) arguments="$OUT/classifier.h5 $decoder" ;;
                unet) arguments="$OUT/classifier.h5 $decoder $masks_alone" ;;
                scratch) arguments="${SCRATCH:?network} --weights none --heatmap segmentation-head $masks_alone" ;;
                *) echo "RUNS: no $run" >&2 && exit 2 ;;
            esac
            # shellcheck disable=SC2086
            guide "$run" "$masks" "$seed" $arguments
        done
    done
done

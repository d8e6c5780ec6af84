#!/usr/bin/env bash
# Segmentation by guided heatmaps with few masks, beside U-Nets that learn from the same (paper 000).
#
#   DATA=VOC2012 NETWORK="--model timm:resnet50 --weights hub" OUT=guided bash docs/recipes/guided.sh
#
# DATA     data set with masks; those of TUNE only score
# NETWORK  arguments of train-cls: the network that is guided
# UNET     the same for the U-Nets (default: --model unet --weights none)
# OUT      directory for the artifacts; a run that was cut off continues where it stopped
# TRAIN    list to train on (default train), VAL list to score (default val)
# MASKS    numbers of masks (default: 20 100 500 1464); fewer are a part of more
# RUNS     which of: guided unet mt-unet (default all)
#            guided   heatmaps of the network, by HEATMAP (default: lrp --set composite=epsilon)
#            unet     a U-Net from masks alone: maps of its last layer, no classification loss
#            mt-unet  a U-Net from masks and labels
# FIRST    arguments of the classification before (default: --epochs 10), LEARN of the guidance (default: --epochs 10)
# SIZE     long side of the images in pixels that are scored (default 256)
# XSEG     how xseg is called (default xseg)
set -euo pipefail
: "${DATA:?data set}" "${NETWORK:?arguments of train-cls}" "${OUT:?output directory}"
xseg=${XSEG:-xseg}
train=${TRAIN:-train} val=${VAL:-val} size=${SIZE:-256}
mkdir -p "$OUT"

classifier() {  # name, arguments
    local name=$1
    shift
    # shellcheck disable=SC2086
    $xseg train-cls "$DATA" "$@" --split "$train" --crop "$size" ${FIRST:---epochs 10} -o "$OUT/$name.h5"
}

guide() {  # name, classifier, masks, arguments
    local out=$OUT/$1-$3 start=$2 masks=$3
    shift 3
    # shellcheck disable=SC2086
    $xseg train-guided "$DATA" "$start" --split "$train" --masks "$masks" --crop "$size" "$@" ${LEARN:---epochs 10} -o "$out.h5"
    $xseg explain "$out.h5" "$DATA" --split "$val" --method guided --targets all --size "$size" -o "$out-maps.h5"
    $xseg evaluate "$out-maps.h5" --dataset "$DATA" --split "$val" --json > "$out.json"
    $xseg evaluate "$out.h5" --protocol classification --dataset "$DATA" --split "$val" --size "$size" --json \
        > "$out-classification.json"
}

for run in ${RUNS:-guided unet mt-unet}; do
    # shellcheck disable=SC2086
    case $run in
        guided) classifier classifier $NETWORK ;;
        unet) $xseg train-cls "$DATA" ${UNET:---model unet --weights none} --split "$train" --init-only -o "$OUT/unet-start.h5" ;;
        mt-unet) classifier unet-classifier ${UNET:---model unet --weights none} ;;
    esac
    for masks in ${MASKS:-20 100 500 1464}; do
        # shellcheck disable=SC2086
        case $run in
            guided) guide guided "$OUT/classifier.h5" "$masks" --heatmap ${HEATMAP:-lrp --set composite=epsilon} ;;
            unet) guide unet "$OUT/unet-start.h5" "$masks" --heatmap cam --set relu=false \
                --classification-weight 0 --mask-share 1 ;;
            mt-unet) guide mt-unet "$OUT/unet-classifier.h5" "$masks" --heatmap cam --set relu=false ;;
            *) echo "RUNS: no $run" >&2 && exit 2 ;;
        esac
    done
done

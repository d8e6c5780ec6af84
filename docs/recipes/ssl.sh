#!/usr/bin/env bash
# Self-supervised networks explained with a nearest neighbour: Table 4 and Figures 4a, 4b and 5 of arXiv:2012.02166.
#
#   DATA=VOC2012 NETS="scan=out/scan.h5 supervised=out/cls.h5" OUT=ssl bash docs/recipes/ssl.sh
#
# DATA     data set with masks, which only score; the figures count images of a single class
# NETS     networks by name, as artifacts with softmax heads. For example
#            xseg train-cls DATA --model torchvision:resnet50 --weights scan.pth --init-only --keep-head -o scan.h5
#            xseg train-cls DATA --model torchvision:resnet18 --weights none --objective rotation --crop 224 -o rotnet.h5
# OUT      directory for the artifacts; a run that was cut off continues where it stopped, results that are there stay
# SPLIT    list that is explained (default val); BANK the list of the neighbours, TRAIN of the probes (default train)
# SIZE     long side of the images in pixels (default 224)
# METHODS  of Table 4 (default: agf rap); of Figure 4a the same
# LAYERS   of PROBED, one of NETS (default: the first), module paths that are probed (default: layer1 to layer4)
# LEARN    arguments of train-cls for the probes (default: --epochs 5)
# STEPS    which of: banks maps perturbation segmentation probes figure picture tables (default all, in this order)
# XSEG     how xseg is called (default xseg), PYTHON an interpreter (default python3)
set -euo pipefail
: "${DATA:?data set}" "${NETS:?name=artifact ...}" "${OUT:?output directory}"
xseg=${XSEG:-xseg}
source "$(dirname "$0")/method_arguments.sh"
split=${SPLIT:-val} size=${SIZE:-224} methods=${METHODS:-agf rap}
probed=${PROBED:-${NETS%%=*}} layers=${LAYERS:-layer1 layer2 layer3 layer4}
mkdir -p "$OUT"

nets() { for pair in $NETS; do echo "${pair%%=*}"; done; }

artifact() {  # name
    for pair in $NETS; do [ "${pair%%=*}" != "$1" ] || echo "${pair#*=}"; done
}

files() {  # net: the maps of every method and neighbour
    for method in $methods; do
        for neighbour in difference sum none; do echo "$OUT/$1-$method-$neighbour.h5"; done
    done
}

banks() {
    for net in $(nets); do
        cls=$(artifact "$net")
        $xseg features "$cls" "$DATA" --split "${BANK:-train}" --size "$size" -o "$OUT/$net-bank.h5"
    done
}

maps() {
    for net in $(nets); do
        cls=$(artifact "$net")
        for method in $methods; do
            for neighbour in difference sum none; do
                bank=(--bank "$OUT/$net-bank.h5")
                [ $neighbour != none ] || bank=()
                $xseg explain "$cls" "$DATA" --split "$split" --size "$size" --method "$method" \
                    --targets ssl "${bank[@]}" --neighbour $neighbour -o "$OUT/$net-$method-$neighbour.h5"
            done
        done
    done
}

# Table 4: negative perturbation, judged by the class that the network itself predicts.
perturbation() {
    for net in $(nets); do
        cls=$(artifact "$net")
        # shellcheck disable=SC2046
        measure "$net-perturbation" $(files "$net") --protocol perturbation --measure negative \
            --score-against predicted --classifier "$cls"
    done
}

# Figure 4a: is the map, of whatever class of the pretext task, where the object is?
segmentation() {
    for net in $(nets); do
        # shellcheck disable=SC2046
        measure "$net-segmentation" $(files "$net") --protocol imagenet-seg --preset agf --dataset "$DATA" --split "$split"
    done
}

# Figure 4b: the same of linear probes, layer by layer, each explained for the labelled classes.
probes() {
    cls=$(artifact "$probed")
    for layer in $layers; do
        # shellcheck disable=SC2086
        $xseg train-cls "$DATA" --split "${TRAIN:-train}" --weights "$cls" --probe "$layer" \
            ${LEARN:---epochs 5} -o "$OUT/$probed-probe-$layer.h5"
        $xseg explain "$OUT/$probed-probe-$layer.h5" "$DATA" --split "$split" --size "$size" --method agf \
            --targets labels -o "$OUT/$probed-layer-$layer.h5"
    done
}

layer_files() { for layer in $layers; do echo "$OUT/$probed-layer-$layer.h5"; done; }

figure() {
    # shellcheck disable=SC2046
    measure "$probed-layers" $(layer_files) --protocol imagenet-seg --preset agf --dataset "$DATA" --split "$split"
}

# Figure 5: the maps of the layers over some photographs.
picture() {
    for layer in $layers; do
        $xseg show "$OUT/$probed-layer-$layer.h5" --limit 8 -o "$OUT/$probed-layer-$layer"
    done
}

tables() { ${PYTHON:-python3} "$(dirname "$0")/ssl_tables.py" "$OUT"; }

for step in ${STEPS:-banks maps perturbation segmentation probes figure picture tables}; do "$step"; done

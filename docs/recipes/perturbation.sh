#!/usr/bin/env bash
# Perturbation of every explanation method on images of single classes: positive and negative, by the maps of the predicted and of the
# labelled class, and the ablations of attribution-guided factorization. The tables of docs/papers.md.
#
#   DATA=imagenet/labels.csv CLS=out/imagenet.h5 OUT=perturbation bash docs/recipes/perturbation.sh
#
# DATA     images with labels, squashed to the classifier's input size as the published experiments have it
# CLS      a classifier of their classes, for example of: xseg train-cls DATA --model timm:NAME --weights hub --init-only --keep-head
# OUT      directory for the artifacts; a run that was cut off continues where it stopped
# STEPS    which of: maps scores (default both)
# ONLY     names of methods, see method_arguments.sh (default all): makes `maps` divisible among jobs
# SAMPLES, CHANNELS, MASKS, ITERATIONS   what the costly methods draw, see method_arguments.sh
# XSEG     how xseg is called (default xseg)
set -euo pipefail
: "${DATA:?images with labels}" "${CLS:?classifier}" "${OUT:?output directory}"
xseg=${XSEG:-xseg}
source "$(dirname "$0")/method_arguments.sh"
only=${ONLY:-$all_methods $agf_ablations}
mkdir -p "$OUT"

# The class of the label and the predicted one together: mostly they are the same, and are explained once.
maps() {
    for name in $only; do
        # shellcheck disable=SC2046
        $xseg explain "$CLS" "$DATA" --targets labels,top1 $(arguments "$name") -o "$OUT/$name.h5"
    done
}

scores() {
    # shellcheck disable=SC2046
    $xseg evaluate $(for name in $only; do echo "$OUT/$name.h5"; done) --protocol perturbation --classifier "$CLS" \
        --maps-of predicted,labels --curve "$OUT/curves.png" --json > "$OUT/perturbation.json"
}

for step in ${STEPS:-maps scores}; do "$step"; done

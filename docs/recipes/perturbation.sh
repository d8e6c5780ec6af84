#!/usr/bin/env bash
# Perturbation of every explanation method on images of single classes: positive and negative, by the maps of the predicted and of the
# labelled class, and the ablations of attribution-guided factorization; their foreground against masks, if there are some. The
# tables of docs/papers.md.
#
#   DATA=imagenet/labels.csv CLS=out/imagenet.h5 OUT=perturbation bash docs/recipes/perturbation.sh
#   FAMILY=vit LAYER=patch_embed.backbone DATA=VOC2012 SPLIT=val SIZE=224 CLS=out/hybrid.h5 OUT=transformers STEPS="maps scores foreground tables" \
#       bash docs/recipes/perturbation.sh
#
# DATA     images with labels; the published experiments squash them to 224 x 224, which xseg does not do for `explain`: make
#          such copies first to compare with them
# CLS      a classifier of their classes, for example of: xseg train-cls DATA --model timm:NAME --weights hub --init-only --keep-head
# OUT      directory for the artifacts; maps that were cut off continue where they stopped, results that are there stay
# SPLIT    list of the images (default all); several classes on an image count one by one, and `foreground` leaves it out
# SIZE     long side in pixels at which the maps are made (default: as the images are)
# FAMILY   methods for a cnn (default), or for a vit
# STEPS    which of: maps scores ablations foreground tables (default: maps scores ablations tables); foreground needs masks
# ONLY     names of methods, see method_arguments.sh (default all): makes `maps` divisible among jobs
# SAMPLES, CHANNELS, MASKS, ITERATIONS   what the costly methods draw, see method_arguments.sh
# XSEG     how xseg is called (default xseg), PYTHON an interpreter (default python3)
set -euo pipefail
: "${DATA:?images with labels}" "${CLS:?classifier}" "${OUT:?output directory}"
xseg=${XSEG:-xseg}
source "$(dirname "$0")/method_arguments.sh"
only=${ONLY:-$all_methods $agf_ablations}
view=(${SPLIT:+--split "$SPLIT"} ${SIZE:+--size "$SIZE"})
mkdir -p "$OUT"

# The class of the label and the predicted one together: mostly they are the same, and are explained once.
maps() {
    for name in $only; do
        # shellcheck disable=SC2046
        $xseg explain "$CLS" "$DATA" "${view[@]}" --targets labels,predicted $(arguments "$name") -o "$OUT/$name.h5"
    done
}

files() {  # names
    for name in "$@"; do echo "$OUT/$name.h5"; done
}

scores() {
    # shellcheck disable=SC2046,SC2086
    measure perturbation $(files $all_methods) --protocol perturbation --classifier "$CLS" --maps-of predicted,labels \
        --curve "$OUT/curves.png"
}

# The paper's ablations are judged by negative perturbation alone.
ablations() {
    # shellcheck disable=SC2046,SC2086
    measure ablations $(files random agf $agf_ablations) --protocol perturbation --measure negative --classifier "$CLS" \
        --maps-of predicted,labels
}

foreground() {
    # shellcheck disable=SC2046,SC2086
    foreground_scores "$DATA" "${SPLIT:-}" $(files $all_methods)
}

tables() { ${PYTHON:-python3} "$(dirname "$0")/methods_tables.py" "$OUT"; }

for step in ${STEPS:-maps scores ablations tables}; do "$step"; done

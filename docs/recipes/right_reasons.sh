#!/usr/bin/env bash
# Right for the right reasons (paper 000; Ross et al. 2017): a watermark gives a class away, and guidance takes it back.
#
#   OUT=right bash docs/recipes/right_reasons.sh
#
# Three classifiers of the same network: trained (first), trained on with no penalty (longer), trained on with a penalty
# on heatmaps that point at the watermark (right). Each is scored where the watermark stands as in training (confounded),
# where there is none (clean) and where it stands on the wrong images (shifted). Masks have no part in it.
#
# OUT      directory for data and artifacts; a run that was cut off continues where it stopped
# IMAGES   of the training list (default 240), SIZE their longest side in pixels (default 64)
# WEIGHT   of the penalty (default 0.5), HEATMAP its method (default input-x-gradient)
# MODEL    arguments of train-cls (default: --model timm:test_efficientnet --weights none)
# LEARN    further arguments of both trainers (default: as the numbers in docs/papers.md were made)
# XSEG     how xseg is called (default xseg), PYTHON an interpreter (default python3)
set -euo pipefail
: "${OUT:?output directory}"
xseg=${XSEG:-xseg} python=${PYTHON:-python3}
size=${SIZE:-64} heatmap=${HEATMAP:-input-x-gradient}
model=${MODEL:---model timm:test_efficientnet --weights none}
learn=${LEARN:---optimizer adamw --lr 2e-3 --head-lr-multiplier 1 --batch-size 16 --epochs 15}
square="--crop $size --resize-low $size --resize-high $size --split train"
data=$OUT/data
mkdir -p "$OUT"
[ -d "$data" ] || "$python" "$(dirname "$0")/watermark.py" "$data" "${IMAGES:-240}" "$size"

# shellcheck disable=SC2086 # arguments
$xseg train-cls "$data" $model $square $learn -o "$OUT/first.h5"
for name in longer right; do
    weight=0
    [ "$name" = longer ] || weight=${WEIGHT:-0.5}
    # shellcheck disable=SC2086
    $xseg train-guided "$data" "$OUT/first.h5" --masks 0 --ignore-region "$data/regions" --loss rrr --heatmap "$heatmap" \
        --region-weight "$weight" $square $learn -o "$OUT/$name.h5"
done
for list in confounded clean shifted; do
    for name in first longer right; do
        echo "$list $name" >&2
        $xseg evaluate "$OUT/$name.h5" --protocol classification --size "$size" --dataset "$data" --split "$list" \
            --json > "$OUT/$list-$name.json"
    done
done

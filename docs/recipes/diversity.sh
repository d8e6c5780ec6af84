#!/usr/bin/env bash
# An ensemble whose heatmaps disagree (paper 000; Ross et al. 2020), against one whose seeds alone do.
#
#   OUT=diversity bash docs/recipes/diversity.sh
#
# In both, three classifiers learn one after the other from the same labels; in the second each is also told not to have the heatmaps of
# those before it (the first is the same in both). The data are those of right_reasons.sh: a watermark gives a class away, and a member
# that looks elsewhere than the first cannot lean on it. Scored are members and mean of probabilities.
#
# OUT      directory for data and artifacts; a run that was cut off continues where it stopped
# SEEDS    of the ensembles (default: 0 1 2)
# IMAGES   of the training list (default 240), SIZE their longest side in pixels (default 64)
# WEIGHT   of the diversity (default 1), HEATMAP its method (default input-x-gradient)
# MODEL    arguments of train-guided (default: --model timm:test_efficientnet --weights none)
# LEARN    further arguments (default: as the numbers in docs/papers.md were made)
# XSEG     how xseg is called (default xseg), PYTHON an interpreter that has it (default python3)
set -euo pipefail
: "${OUT:?output directory}"
xseg=${XSEG:-xseg} python=${PYTHON:-python3} here=$(dirname "$0")
size=${SIZE:-64} model=${MODEL:---model timm:test_efficientnet --weights none}
learn=${LEARN:---optimizer adamw --lr 2e-3 --head-lr-multiplier 1 --batch-size 16 --epochs 15}
square="--crop $size --resize-low $size --resize-high $size --split train"
data=$OUT/data
mkdir -p "$OUT"
[ -d "$data" ] || "$python" "$here/watermark.py" "$data" "${IMAGES:-240}" "$size"

# shellcheck disable=SC2086 # arguments
member() {  # name, seed, weight, those before it
    local name=$1 seed=$2 weight=$3 against=()
    shift 3
    for other in "$@"; do against+=(--against "$OUT/$other.h5"); done
    if [ $# = 0 ]; then
        $xseg train-cls "$data" $model $square $learn --seed "$seed" -o "$OUT/$name.h5"
    else
        $xseg train-guided "$data" $model --masks 0 --loss diversity --heatmap ${HEATMAP:-input-x-gradient} --weight "$weight" \
            "${against[@]}" $square $learn --seed "$seed" -o "$OUT/$name.h5"
    fi
}

for seed in ${SEEDS:-0 1 2}; do
    one=$((3 * seed)) two=$((3 * seed + 1)) three=$((3 * seed + 2))
    member "first-$seed" $one 0
    member "seeds-2-$seed" $two 0 "first-$seed"
    member "seeds-3-$seed" $three 0 "first-$seed" "seeds-2-$seed"
    member "diverse-2-$seed" $two "${WEIGHT:-1}" "first-$seed"
    member "diverse-3-$seed" $three "${WEIGHT:-1}" "first-$seed" "diverse-2-$seed"
    for kind in seeds diverse; do
        for list in confounded clean shifted; do
            "$python" "$here/ensemble.py" "$data" "$list" "$size" "$OUT"/{first,$kind-2,$kind-3}-"$seed".h5 > "$OUT/$kind-$list-$seed.json"
        done
    done
done

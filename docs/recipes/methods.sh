#!/usr/bin/env bash
# Every explanation method with one classifier: as a seed, its class specificity, its sanity checks, and the best five
# through CRF, AffinityNet and random walk. The tables of docs/results.md, "Explanation methods on the VOC subset".
#
#   DATA=VOC2012 CLS=out/cls.h5 OUT=methods bash docs/recipes/methods.sh      (about four hours of processor time)
#
# DATA     VOC-style directory with the lists train and val and labels.csv; labels are given, masks only score
# CLS      its classifier, for example of docs/recipes/voc.sh
# OUT      directory for the artifacts; a run that was cut off continues where it stopped
# STEPS    which of: maps scores specificity sanity foreground localisation multilabel chain tables (default all, in this order)
# RANDOM_LABELS   a classifier that learned permuted labels (train-cls --permute-labels, the rest as for CLS): `sanity` compares
#          with its maps, too
# ONLY     names of methods, as in the table below (default all): makes `maps` and `sanity` divisible among jobs
# BEST     the methods of `chain` (default: the five best different seeds of docs/results.md)
# SAMPLES, CHANNELS, MASKS, ITERATIONS   what the costly methods draw, see method_arguments.sh
# XSEG     how xseg is called (default xseg), PYTHON an interpreter (default python3)
set -euo pipefail
: "${DATA:?VOC-style directory}" "${CLS:?classifier}" "${OUT:?output directory}"
xseg=${XSEG:-xseg} python=${PYTHON:-python3}
source "$(dirname "$0")/method_arguments.sh"
mkdir -p "$OUT"

methods=$all_methods
only=${ONLY:-$methods}

# The same images with lists of our own: 100 of `train` choose thresholds, a third of it trains the AffinityNets, and the
# sanity checks look at the images of `val` with several classes.
export XSEG_FOLLOW_LINKS=1
data=$OUT/data lists=$OUT/data/ImageSets/Segmentation
mkdir -p "$lists"
for part in JPEGImages SegmentationClass Annotations labels.csv classes.txt; do
    [ ! -e "$DATA/$part" ] || ln -sfn "$(realpath "$DATA/$part")" "$data/$part"
done
cp "$DATA"/ImageSets/Segmentation/*.txt "$lists"
$python - "$lists" <<'END'
import pathlib, random, sys
lists = pathlib.Path(sys.argv[1])
train = sorted((lists / "train.txt").read_text().split())
(lists / "tune.txt").write_text("\n".join(random.Random(0).sample(train, min(100, len(train)))) + "\n")
labels = {line.split(",")[0]: line.split(",")[1].split() for line in (lists / "../../labels.csv").open()}
several = [name for name in (lists / "val.txt").read_text().split() if len(labels[name]) > 1]
for name, ids in (("third", train[::3]), ("several", several)):
    (lists / f"{name}.txt").write_text("\n".join(ids) + "\n")
END

# One view of 224 pixels, as the published experiments have it; what the chain gains from several is in docs/results.md.
explain() {  # name list
    # shellcheck disable=SC2046
    $xseg explain "$CLS" "$data" --split "$2" --size 224 $(arguments "$1") -o "$OUT/$1-$2.h5"
}

files() {  # list: the maps of all methods on it
    for name in $methods; do echo "$OUT/$name-$1.h5"; done
}

maps() {
    for name in $only; do explain "$name" tune; explain "$name" val; done
}

scores() {
    for name in $only; do
        measure "$name-scores" "$OUT/$name-val.h5" --dataset "$data" --split val --tune-on tune \
            --tune-with "$OUT/$name-tune.h5"
        measure "$name-tune-scores" "$OUT/$name-tune.h5" --dataset "$data" --split tune
    done
}

specificity() {
    # shellcheck disable=SC2046
    measure specificity $(files val) --protocol class-specificity --dataset "$data" --split val
}

# The images of several classes, at the head, half-way and in all layers.
sanity() {
    for name in $only; do
        measure "$name-sanity" "$OUT/$name-val.h5" --protocol sanity --classifier "$CLS" --dataset "$data" \
            --split several --stages 3
        [ -z "${RANDOM_LABELS:-}" ] || measure "$name-labels-sanity" "$OUT/$name-val.h5" --protocol sanity \
            --classifier "$CLS" --dataset "$data" --split several --random-labels "$RANDOM_LABELS"
    done
}

# Foreground and background by one map, on the images of a single class.
foreground() {
    # shellcheck disable=SC2046
    foreground_scores "$data" val $(files val)
}

# How much of a map, and whether its maximum, lies in the object.
localisation() {
    # shellcheck disable=SC2046
    measure localisation $(files val) --protocol localisation --dataset "$data" --split val
}

# The classes that the classifier itself finds, segmented together.
multilabel() {
    for name in $only; do
        # shellcheck disable=SC2046
        $xseg explain "$CLS" "$data" --split val --size 224 --targets predicted $(arguments "$name") \
            -o "$OUT/$name-predicted.h5"
    done
    # shellcheck disable=SC2046
    measure multilabel $(files predicted) --protocol voc-multilabel --dataset "$data" --split val
}

# Each method has its own confident labels, AffinityNet, walk and masks. Maps differ in how heavy their tail is: each is raised
# to the power that takes its threshold, tuned on the 100 images, to that for which the recipe's exponents were chosen.
chain() {
    for name in ${BEST:-lrp rap full-grad cam grad-cam++}; do
        root=$($python -c 'import json, math, sys
threshold = json.load(open(sys.argv[1]))["background_threshold"]
print(round(math.log(max(threshold, 0.005)) / math.log(0.36), 2))' "$OUT/$name-scores.json")
        echo "$root" > "$OUT/$name-root.txt"
        explain "$name" third
        $xseg crf "$OUT/$name-third.h5" --alpha-low 1.5 --alpha-high 6 --root "$root" -o "$OUT/$name-labels.h5"
        $xseg affinity-train "$OUT/$name-labels.h5" "$CLS" --output-stride 16 --standardise \
            --layers blocks.1,blocks.2,blocks.4,blocks.6,image --widths 16,32,64,128,16 --features 64 \
            --epochs 4 --crop 448 --batch-size 4 --lr 0.003 --weight-decay 0.001 --jitter 0 -o "$OUT/$name-affinity.h5"
        $xseg random-walk "$OUT/$name-val.h5" "$OUT/$name-affinity.h5" --root "$root" --beta 8 --steps 48 --alpha 3 --shares \
            -o "$OUT/$name-walk.h5"
        $xseg crf "$OUT/$name-walk.h5" --masks --sharpen 4 --bilateral-sxy 50 --bilateral-srgb 5 -o "$OUT/$name-masks.h5"
        $xseg crf "$OUT/$name-val.h5" --masks --root "$root" --alpha 3 --sharpen 2 -o "$OUT/$name-crf.h5"
        measure "$name-chain" "$OUT/$name-crf.h5" "$OUT/$name-walk.h5" "$OUT/$name-masks.h5" --dataset "$data" --split val
    done
}

tables() { $python "$(dirname "$0")/methods_tables.py" "$OUT"; }

for step in ${STEPS:-maps scores specificity sanity foreground localisation multilabel chain tables}; do "$step"; done

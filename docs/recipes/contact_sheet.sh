#!/usr/bin/env bash
# The figure and the measured columns of docs/methods.md: every method on the demonstration's pictures of several classes.
#
#   OUT=sheet bash docs/recipes/contact_sheet.sh        (some 20 minutes of processor time)
#
# OUT      directory for the artifacts; a run that was cut off continues where it stopped
# FIGURE   the picture (default $OUT/methods.jpg)
# XSEG     how xseg is called (default xseg), PYTHON the interpreter that has it (default python)
set -euo pipefail
: "${OUT:?output directory}"
xseg=${XSEG:-xseg} python=${PYTHON:-python} here=$(dirname "$0")

$xseg demo "$OUT/demo"
data=$OUT/demo/data
# The images of `val`, on which the classifier did not learn, that show at least two classes.
lists=$data/ImageSets/Segmentation
awk -F, 'NR == FNR {val[$1]; next} ($1 in val) && $2 ~ / / {print $1}' "$lists/val.txt" "$data/labels.csv" > "$lists/several.txt"

explain=($xseg explain "$OUT/demo/classifier.h5" "$data" --split several --output-stride 8)
maps=()
for method in \
    cam grad-cam grad-cam++ hires-cam layer-cam score-cam \
    input-x-gradient smooth-grad integrated-gradients gradient-shap full-grad \
    occlusion rise meaningful-perturbation \
    lrp clrp sglrp rap agf \
    centre-prior random
do
    settings=()
    if [ "$method" = rise ]; then settings=(--set masks=1000); fi  # a quarter of the default, for the time it takes
    "${explain[@]}" --method "$method" ${settings[@]+"${settings[@]}"} -o "$OUT/$method.h5"
    maps+=("$OUT/$method.h5")
done

# What Gur et al. call LRP, and LRP with alpha 2 and beta 1.
"${explain[@]}" --method lrp --set composite=published --set alpha=1 -o "$OUT/lrp-published-1.h5"
"${explain[@]}" --method lrp --set composite=published -o "$OUT/lrp-published-2.h5"

$xseg evaluate "${maps[@]}" "$OUT"/lrp-published-?.h5 --protocol class-specificity --dataset "$data" --split several --json > "$OUT/specificity.json"
$python "$here/contact_sheet.py" "${FIGURE:-$OUT/methods.jpg}" "$data" "${maps[@]}"

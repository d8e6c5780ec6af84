# Sourced by the recipes: the steps of the chain from image-level labels to scored masks. A recipe gives each its arguments.
#
# TRAIN    root whose list TRAIN_SPLIT (default train_aug) trains the classifier and LABEL_SPLIT (default train) all else:
#          images and image-level labels only
# TEST     root whose list `val` is segmented and scored
# OUT      directory for the artifacts; a run that was cut off continues where it stopped
# WEIGHTS  ImageNet weights: a file, hub, or none
# SEED     of the trainings (default 0), LIMIT: only the first images of each list
# XSEG     how xseg is called (default xseg); XSEG=echo prints the commands, one a line, for `xseg slurm -`
# TRAIN_CLS EXPLAIN CRF_LABELS AFFINITY_TRAIN RANDOM_WALK CRF_MASKS TRAIN_SEG SEGMENT   further arguments of the command; of
#          an option that is given twice the last counts: TRAIN_CLS="--epochs 1 --crop 64" makes a small run of any recipe
# shellcheck shell=bash disable=SC2086
: "${TRAIN:?root of the training images}" "${TEST:?root of the test images}" "${OUT:?output directory}" "${WEIGHTS:?file}"
xseg=${XSEG:-xseg} maps=${maps:-cam} seed=${SEED:-0}
train_split=${TRAIN_SPLIT:-train_aug} label_split=${LABEL_SPLIT:-train}
limit=(${LIMIT:+--limit "$LIMIT"})
mkdir -p "$OUT"

# Below, SET is train or val, and names its files: cam-train.h5, walk-val.h5.
images_of() { if [ "$1" = train ]; then images=("$TRAIN" --split "$label_split"); else images=("$TEST" --split val); fi; }

classifier() {  # arguments
    $xseg train-cls "$TRAIN" --split "$train_split" "${limit[@]}" --weights "$WEIGHTS" --seed "$seed" "$@" ${TRAIN_CLS:-} \
        -o "$OUT/cls.h5"
}

seeds() {  # SET, arguments
    images_of "$1"
    $xseg explain "$OUT/cls.h5" "${images[@]}" "${limit[@]}" "${@:2}" ${EXPLAIN:-} -o "$OUT/$maps-$1.h5"
}

labels() {  # arguments
    $xseg crf "$OUT/$maps-train.h5" "$@" ${CRF_LABELS:-} -o "$OUT/labels.h5"
}

affinity() {  # arguments
    $xseg affinity-train "$OUT/labels.h5" "$OUT/cls.h5" --seed "$seed" "$@" ${AFFINITY_TRAIN:-} -o "$OUT/affinity.h5"
}

walk() {  # SET, arguments
    $xseg random-walk "$OUT/$maps-$1.h5" "$OUT/affinity.h5" "${@:2}" ${RANDOM_WALK:-} -o "$OUT/walk-$1.h5"
}

masks() {  # SET, kind of the input, arguments
    $xseg crf "$OUT/$2-$1.h5" --masks "${@:3}" ${CRF_MASKS:-} -o "$OUT/masks-$1.h5"
}

posterior() {  # SET, kind of the input, arguments: what the masks are the argmax of
    $xseg crf "$OUT/$2-$1.h5" --heatmaps "${@:3}" ${CRF_MASKS:-} -o "$OUT/posterior-$1.h5"
}

segmenter() {  # name, masks, arguments
    $xseg train-seg "$OUT/$2.h5" --seed "$seed" "${@:3}" ${TRAIN_SEG:-} -o "$OUT/$1.h5"
}

segmented() {  # segmenter, SET, artifact, arguments
    images_of "$2"
    $xseg segment "$OUT/$1.h5" "${images[@]}" "${limit[@]}" "${@:4}" ${SEGMENT:-} -o "$OUT/$3.h5"
}

score() {  # artifact, arguments
    $xseg evaluate "$OUT/$1.h5" --dataset "$TEST" --split val --json "${limit[@]}" "${@:2}"
}

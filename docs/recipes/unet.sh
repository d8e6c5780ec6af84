#!/usr/bin/env bash
# U-Net classifiers against ablated ones and plain CNNs: Table I and Figure 2 of paper 002 (Mascolini et al. 2022).
#
#   DATA=VOC2012 WEIGHTS=tf_efficientnet_lite0.safetensors OUT=unet bash docs/recipes/unet.sh
#
# About five hours of processor time where 660 images of 224 pixels are learned and 370 explained; most of it trains the U-Nets.
#
# DATA       VOC-style directory: image-level labels train, masks only score
# WEIGHTS    of ENCODER: a file, or hub; every network starts from them
# OUT        directory for the artifacts; a run that was cut off continues where it stopped
# ENCODER    a convolutional network of timm (default tf_efficientnet_lite0), the encoder of both U-Nets and itself the plain CNN
# TRAIN      list that trains (default train), SPLIT the list that is explained and scored (default val)
# SEEDS      of the trainings (default: 0 1 2)
# NETS       which of: unet ablated plain plain16 (default all). ablated has no skip connections; plain is the CNN alone, at its own
#            stride, as the paper's ResNet-50; plain16 the same weights read at stride 16, as fine as the paper's VGG-16
# METHODS    default: grad-cam grad-cam++ score-cam
# REFERENCE  artifact of an independent classifier of the same classes, whose Grad-CAM++ is the reference mask; the default is
#            one more plain CNN, trained here from the seed REFERENCE_SEED (default 100), which is none of those scored
# REFERENCE_SIZE  long side at which the reference looks (default SIZE): it may see finer than those it judges
# THRESHOLD  of the reference mask in Table I (default 0.5; the paper does not state its own); 0.1 to 0.9 are swept
# LEARN      arguments of train-cls, the same for all networks (default: see below); SHAPE further ones of the U-Nets, --set width=16
# SIZE       long side of the images in pixels (default 224); LIMIT: only the first images of SPLIT
# CHANNELS   strongest channels that score-cam looks at (default 32, all of a U-Net's)
# STEPS      which of: train maps scores accuracy picture tables (default all, in this order)
# XSEG       how xseg is called (default xseg), PYTHON an interpreter (default python3)
set -euo pipefail
: "${DATA:?VOC-style directory}" "${WEIGHTS:?file, or hub}" "${OUT:?output directory}"
xseg=${XSEG:-xseg} python=${PYTHON:-python3}
source "$(dirname "$0")/method_arguments.sh"
encoder=${ENCODER:-tf_efficientnet_lite0} split=${SPLIT:-val} size=${SIZE:-224}
seeds=${SEEDS:-0 1 2} nets=${NETS:-unet ablated plain plain16} methods=${METHODS:-grad-cam grad-cam++ score-cam}
limit=(${LIMIT:+--limit "$LIMIT"})
learn=${LEARN:---head-init prior --epochs 10 --batch-size 16 --crop 224 --resize-low 224 --resize-high 320 --optimizer adamw --lr 0.0003
    --weight-decay 0.01 --warmup 0.1}
mkdir -p "$OUT"

trained() { echo "${1%16}"; }  # net: plain16 has the weights of plain

learn_one() {  # model arguments, seed, artifact
    # shellcheck disable=SC2086
    $xseg train-cls "$DATA" --split "${TRAIN:-train}" $1 --weights "$WEIGHTS" $learn --seed "$2" -o "$3"
}

train() {
    for seed in $seeds; do
        for net in $nets; do
            case $net in
            unet) model="--model unet --set encoder=$encoder ${SHAPE:-}" ;;
            ablated) model="--model unet --set encoder=$encoder ${SHAPE:-} --set skips=false" ;;
            plain | plain16) model="--model timm:$encoder" ;;
            *) echo "NETS: $net: needed unet, ablated, plain or plain16" >&2; exit 2 ;;
            esac
            name=$(trained "$net")
            learn_one "$model" "$seed" "$OUT/$name-$seed.h5"
            $xseg info "$OUT/$name-$seed.h5" --json > "$OUT/$name-info.json"
        done
    done
    [ -n "${REFERENCE:-}" ] || learn_one "--model timm:$encoder" "${REFERENCE_SEED:-100}" "$OUT/reference-cls.h5"
}

# Grad-CAM++ by the paper's formula: the constant that pytorch-grad-cam adds to it weighs more the finer the maps are.
plus=(--method grad-cam++ --set epsilon=0)

of_method() { if [ "$1" = grad-cam++ ]; then echo "${plus[@]}"; else arguments "$1"; fi; }

# Maps stay at the resolution of the network's last features; whoever scores them stretches them over the image.
explain() {  # classifier, artifact, long side, arguments
    $xseg explain "$1" "$DATA" --split "$split" --size "$3" --targets labels --map-size model "${limit[@]}" "${@:4}" -o "$2"
}

maps() {
    explain "${REFERENCE:-$OUT/reference-cls.h5}" "$OUT/reference.h5" "${REFERENCE_SIZE:-$size}" "${plus[@]}"
    for seed in $seeds; do
        for net in $nets; do
            stride=()
            [ "$net" != plain16 ] || stride=(--output-stride 16)
            for method in $methods; do
                # shellcheck disable=SC2046
                explain "$OUT/$(trained "$net")-$seed.h5" "$OUT/$net-$seed-$method.h5" "$size" $(of_method "$method") "${stride[@]}"
            done
        done
    done
}

files() {  # seed: the maps of every network and method
    for net in $nets; do
        for method in $methods; do echo "$OUT/$net-$1-$method.h5"; done
    done
}

# The paper's score, and the same with true masks in place of the reference.
scores() {
    for seed in $seeds; do
        # shellcheck disable=SC2046
        measure "localisation-$seed" $(files "$seed") --protocol localisation --reference "$OUT/reference.h5" \
            --reference-threshold "${THRESHOLD:-0.5}" --dataset "$DATA" --split "$split" "${limit[@]}"
    done
}

# A map of a network that recognises nothing explains nothing: the average precision stands beside the scores.
accuracy() {
    for seed in $seeds; do
        # shellcheck disable=SC2046
        measure "accuracy-$seed" $(for net in $nets; do echo "$OUT/$(trained "$net")-$seed.h5"; done | sort -u) \
            --protocol classification --dataset "$DATA" --split "$split" --size "$size"
    done
}

# Figure 2: the maps of every network over some photographs.
picture() {
    seed=${seeds%% *}
    for net in $nets; do
        for method in $methods; do
            $xseg show "$OUT/$net-$seed-$method.h5" --limit 8 --overwrite -o "$OUT/$net-$method"
        done
    done
}

tables() { $python "$(dirname "$0")/unet_tables.py" "$OUT"; }

for step in ${STEPS:-train maps scores accuracy picture tables}; do "$step"; done

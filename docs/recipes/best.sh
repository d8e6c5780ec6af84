#!/usr/bin/env bash
# The chain with all that was found to help, each on a switch, and behind it a segmenter with a second round.
#
#   TRAIN=VOC2012 TEST=VOC2012 OUT=best WEIGHTS=tf_efficientnet_lite0.safetensors bash docs/recipes/best.sh
#   SHARES=off TRAIN=VOC2012 TEST=VOC2012 OUT=no-shares WEIGHTS=tf_efficientnet_lite0.safetensors bash docs/recipes/best.sh
#
# An ablation has a directory of its own. It may begin with the artifacts that it shares with another run (above: cls.h5, cam-*.h5,
# labels.h5 and affinity.h5, copied): what is complete and has the same arguments is recognised.
#
# Switches, on unless set to off:
#   TRANSFER     the classifier's head starts as a blend of the weights' own classes
#   INTERPOLATE  half of the way back from the learned weights to the first ones
#   BALANCE      images of rare classes are drawn more often
#   VIEWS        CAM of four scales and their mirror images, else of one view
#   LEVELS       AffinityNet looks at several levels of one scale and the picture, else at psa's
#   WALK         AffinityNet and random walk; else the CRF takes the CAM
#   SHARES       the walk starts from shares
#   SHARPEN      walked maps are sharpened before the last CRF
#   CRF          the last CRF
#   SEGMENTER    a segmenter learns the masks of TRAIN
#   CONFIDENCE   its pixels count by their label's share in the posterior of the mask
#   ROUND        its own masks of TRAIN, of the classes that the labels allow, train a second one
# AREA     prior share of an image that is foreground, as 0.3: chooses the background's exponents and the seeds' threshold in place of
#          the numbers below, which masks of 100 images chose; SURE two shares, as 0.15,0.45: surely foreground, not surely background
# MODEL    (default timm:tf_efficientnet_lite0); other networks need other LAYERS and WIDTHS of AffinityNet, and FREEZE (6)
# The other variables are those of docs/recipes/chain.sh.
#
# docs/results.md has what the parts before SEGMENTER brought. SEGMENTER, CONFIDENCE, ROUND and AREA are not measured there.
# Everything but the segmenters' masks is scored with the labels of `val` given.
# shellcheck disable=SC2046
set -euo pipefail
source "$(dirname "$0")/chain.sh"
on() { [ "${!1:-on}" != off ]; }
with() { if on "$1"; then echo "${@:2}"; fi; }  # switch, arguments

# The network learns at its native stride of 32 and is read at 16: the weights are the same, the maps twice as fine.
# Its head starts as a blend of the weights' own classes, so that little training is enough; going half of the way back to
# the start keeps the features general.
classifier --model "${MODEL:-timm:tf_efficientnet_lite0}" $(with TRANSFER --no-head-bias --head-init transfer) --epochs 4 \
    $(with INTERPOLATE --interpolate 0.5) --batch-size 16 --resize-low 256 --resize-high 400 --crop 288 --freeze "${FREEZE:-6}" \
    --freeze-bn --freeze-bn-affine --optimizer adamw --lr 0.0002 --head-lr-multiplier 5 --weight-decay 0.01 --warmup 0.12 \
    $(with BALANCE --balance 0.5)

# The seeds' best threshold is near 0.36, so exponents far below psa's 4 and 32 suit their background.
confident=(--alpha-low 1.5 --alpha-high 6) exponent=(--alpha 3) threshold=(--threshold "${SEED_THRESHOLD:-0.36}")
if [ -n "${AREA:-}" ]; then
    confident=(--foreground-share "${SURE:?two shares, as 0.15,0.45}")
    exponent=(--foreground-share "$AREA") threshold=(--foreground-share "$AREA")
fi

views=(--method cam --output-stride 16 $(with VIEWS --scales 0.5,1,1.5,2 --flip))
levels=($(with LEVELS --standardise --layers "${LAYERS:-blocks.1,blocks.2,blocks.4,blocks.6,image}" \
    --widths "${WIDTHS:-16,32,64,128,16}" --features 64))
# Walked maps are flat: their shares are told apart again before the CRF.
if on WALK; then
    last=(walk $(with SHARPEN --sharpen 4) --bilateral-sxy 50 --bilateral-srgb 5)
else
    last=("$maps" "${exponent[@]}" $(with SHARPEN --sharpen 2))
fi
on CRF || last+=(--iterations 0)

seeds train "${views[@]}"
seeds val "${views[@]}"
if on WALK; then
    labels "${confident[@]}"
    affinity --output-stride 16 "${levels[@]}" --epochs 4 --crop 448 --batch-size 4 --lr 0.003 --weight-decay 0.001 --jitter 0
fi
walked() { if on WALK; then walk "$1" --beta 8 --steps 48 "${exponent[@]}" $(with SHARES --shares); fi; }  # SET
walked val
masks val "${last[@]}"
score "$maps-val" "${threshold[@]}"
if on WALK; then score walk-val; fi
score masks-val

if on SEGMENTER; then
    learn=(--weights "$OUT/cls.h5" --output-stride 16 --head lraspp --epochs 10 --crop 320 --average 0.999
        $(with BALANCE --balance 0.5))
    walked train
    if on CONFIDENCE; then
        posterior train "${last[@]}"
        masks train posterior --iterations 0
        segmenter seg masks-train "${learn[@]}" --confidence "$OUT/posterior-train.h5"
    else
        masks train "${last[@]}"
        segmenter seg masks-train "${learn[@]}"
    fi
    looks=(--scales 0.5,0.75,1,1.25,1.5 --flip)
    segmented seg val seg-val "${looks[@]}" --crf
    score seg-val
    if on ROUND; then
        segmented seg train second-train "${looks[@]}" --targets labels --crf
        segmenter seg2 second-train "${learn[@]}"
        segmented seg2 val seg2-val "${looks[@]}" --crf
        score seg2-val
    fi
fi

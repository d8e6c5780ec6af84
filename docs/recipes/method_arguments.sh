# Sourced by the recipes: the explanation methods by the names of their tables, the arguments of `xseg explain` for each, and
# how a result is measured.
#
# SAMPLES, CHANNELS, MASKS, ITERATIONS   what the costly methods draw; the defaults are made for two cores, and far below
#          what was published: 50, all, 4000 and 500
# FAMILY   of the classifier: cnn (default), or vit
# LAYER    of grad-cam, which a hybrid needs: patch_embed.backbone, its stem
samples=${SAMPLES:-10} channels=${CHANNELS:-32} masks=${MASKS:-60} iterations=${ITERATIONS:-20}

all_methods="random centre-prior
cam grad-cam hires-cam grad-cam++ layer-cam score-cam score-cam-softmax
input-x-gradient smooth-grad integrated-gradients gradient-shap full-grad
occlusion rise meaningful-perturbation
lrp lrp-epsilon-alpha2-beta1 lrp-published clrp sglrp rap agf agf-logit"

# Those of arXiv:2012.09838 and its successors; transformer-attribution-0 rolls out all blocks.
transformer_methods="random centre-prior grad-cam raw-attention rollout attention-grad-cam attention-gradient-rollout
vit-lrp partial-lrp transformer-attribution transformer-attribution-0"

# Attribution-guided factorization without one of its parts; agf-only-c has no residual term.
agf_ablations="agf-only-c agf-no-a agf-no-fx agf-no-fdx agf-no-m agf-no-reg agf-gradcam"

case ${FAMILY:-cnn} in
    cnn) ;;
    vit) all_methods=$transformer_methods agf_ablations="" ;;
    *) echo "FAMILY=$FAMILY: needed cnn or vit" >&2; exit 2 ;;
esac

arguments() {  # name
    case $1 in
        score-cam) echo --method score-cam --set "channels=$channels" ;;
        score-cam-softmax) echo --method score-cam --set variant=pytorch-grad-cam --set "channels=$channels" ;;
        smooth-grad | gradient-shap) echo --method "$1" --set "samples=$samples" ;;
        integrated-gradients) echo --method "$1" --set "steps=$samples" ;;
        occlusion) echo --method occlusion --set window=64 --set stride=32 ;;
        rise) echo --method rise --set "masks=$masks" ;;
        meaningful-perturbation) echo --method "$1" --set "iterations=$iterations" ;;
        lrp-*) echo --method lrp --set "composite=${1#lrp-}" ;;
        grad-cam) echo --method grad-cam ${LAYER:+--layer "$LAYER"} ;;
        transformer-attribution-0) echo --method transformer-attribution --set start_layer=0 ;;
        agf-logit) echo --method agf --set start=logit ;;
        agf-only-c) echo --method agf --set no_a=true --set no_fx=true --set no_fdx=true --set no_m=true ;;
        agf-*) name=${1#agf-}; echo --method agf --set "${name//-/_}=true" ;;
        *) echo --method "$1" ;;
    esac
}

foreground_scores() {  # data, list (empty: all), files
    for preset in agf chefer; do
        measure "foreground-$preset" "${@:3}" --protocol imagenet-seg --preset "$preset" --dataset "$1" ${2:+--split "$2"}
    done
}

measure() {  # name of a result, arguments of `xseg evaluate`: kept once it is whole, and continued if it was cut off
    [ -s "$OUT/$1.json" ] && return
    $xseg evaluate "${@:2}" -o "$OUT/$1.scores" --json > "$OUT/$1.part"
    mv "$OUT/$1.part" "$OUT/$1.json"
}

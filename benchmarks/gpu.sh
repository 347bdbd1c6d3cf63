#!/usr/bin/env bash
# All that a GPU has to answer, in order of importance, in nine minutes at most; a part has its result once it is known.
#
#   benchmarks/gpu.sh [--device cuda] [--quick] [--images FOLDER] [--to FOLDER]
#
# FOLDER with the images has train/<class>/ and test/<class>/ (CIFAR-10 as JPEG or PNG files); without it the last two
# parts take the digits. --quick does as little as shows that every part runs. On a host without a network, put the
# wheels that it lacks into .whl/ first: they are installed beside this checkout.
set -uo pipefail
device=cuda quick= images= to=gpu-results python=${PYTHON:-python3}
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=$2; shift 2 ;;
        --quick) quick=1; shift ;;
        --images) images=$(realpath "$2"); shift 2 ;;
        --to) to=$2; shift 2 ;;
        *) echo "benchmarks/gpu.sh: unknown option $1; see its first lines" >&2; exit 2 ;;
    esac
done
mkdir -p "$to"
to=$(realpath "$to") # paths are of where this is called
case $python in */*) python=$(realpath --no-symlinks "$python") ;; esac
cd "$(dirname "$(realpath "$0")")/.."
if ls .whl/*.whl >/dev/null 2>&1; then
    "$python" -m pip install --quiet --no-index --no-deps --target "$to/site" .whl/*.whl || exit 1
    export PYTHONPATH="$PWD:$to/site"
else
    export PYTHONPATH=$PWD
fi
export MAE_CACHE_DIR="$to/cache" MAE_TEST_DEVICE=$device OMP_WAIT_POLICY=passive
failed=0

part() { # NAME SECONDS COMMAND...: what it says lands in NAME.txt, and how it ended in summary.txt
    local name=$1 limit=$2 began=$SECONDS code
    shift 2
    [ "$device" = cpu ] && limit=$((5 * limit)) # where they only have to end
    timeout "$limit" "$@" >"$to/$name.txt" 2>&1
    code=$?
    [ $code -eq 0 ] || failed=1
    echo "$name: exit code $code after $((SECONDS - began)) s" | tee -a "$to/summary.txt"
    tail -n 12 "$to/$name.txt"
}

steps() { # PRESET SECONDS: eager, compiled, with CUDA graphs and Hugging Face's, and their share of a matrix product's speed
    part "step-$1" "$2" "$python" benchmarks/training_step.py --device "$device" --preset "$1" "${turns[@]}" --json "$to/step-$1.json"
}

mae() { "$python" -m cli "$@" --device "$device" --tracking-uri none --runs-dir "$to/runs"; }
export -f mae
export python device to

if [ "$quick" ]; then
    data=(--preset digits) epochs=1 seeds=1 ratios=0.5,0.75 workers=1
    turns=(--batch 16 --steps 1 --repeats 1) first=(cifar10-tiny) then=() packed=(1 2)
elif [ "$images" ]; then
    data=(--preset cifar10-tiny --set "data.source=folder:$images" --set train.precision=bf16
        --set train.batch_size=512 --set train.base_lr=1e-3) # a GPU has nothing to do with 64 images
    epochs=20
else
    data=(--preset digits) epochs=50
fi
if ! [ "$quick" ]; then
    seeds=3 ratios=0.3,0.5,0.6,0.75,0.9 workers=8
    turns=(--steps 20 --repeats 5) first=(cifar10-tiny imagenet-vit-b) then=(imagenet-vit-l cifar10-vit-t)
    packed=(1 2 4 8 16)
fi

[ "$device" = cpu ] || part machine 5 nvidia-smi
part tests 100 "$python" -m pytest -p no:cacheprovider --override-ini=addopts= -v tests/gpu
for preset in "${first[@]}"; do steps "$preset" 60; done
part packing 60 "$python" benchmarks/packing.py --device "$device" --seeds "${packed[@]}" "${turns[@]}" --json "$to/packing.json"
part epoch 25 bash -c 'mae pretrain "$@"' mae "${data[@]}" --set "train.epochs=1" --set train.seed=7
for preset in "${then[@]}"; do steps "$preset" 60; done
part study 110 bash -c 'mae ablate "$@"' mae "${data[@]}" --axis "mask.ratio=$ratios" --set "train.epochs=$epochs" \
    --seeds $seeds --per-gpu $workers
exit $failed

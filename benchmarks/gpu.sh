#!/usr/bin/env bash
# Everything that needs a CUDA card, in one command of at most 8 minutes: the checks of tests/cuda.py, then every
# benchmark. Run it in the source tree with any Python that has torch and transformers:
#
#     benchmarks/gpu.sh                          # on a CUDA card
#     benchmarks/gpu.sh --device cpu --quick     # a rehearsal on a processor, on tiny models
#
# What needs a package that is not there is left out and said so. The figures stand in benchmarks/results.
set -u
cd "$(dirname "$0")/.."
device=cuda quick=()
while (($#)); do
    case $1 in
        --device) device=$2; shift 2 ;;
        --quick) quick=(--quick); shift ;;
        *) echo "usage: benchmarks/gpu.sh [--device cuda|cpu] [--quick]" >&2; exit 2 ;;
    esac
done
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
limit=$((SECONDS + 480)) failed=()

stage() { # NAME SECONDS MODULE ARGUMENTS...: run a stage, for so many seconds and no longer than the whole may last
    local name=$1 seconds=$2 left=$((limit - SECONDS)); shift 2
    ((seconds = seconds < left ? seconds : left))
    echo; echo "== $name (at most $seconds s)"
    ((seconds > 0)) && timeout "$seconds" "$python" -m "$@" || failed+=("$name")
}

have() { "$python" -c "import $1" 2>/dev/null || { echo; echo "== left out: $2 (needs $1)"; return 1; }; }

"$python" - "$device" <<'PY' || exit 6
import sys, torch, transformers
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit("no CUDA card here; rehearse with: benchmarks/gpu.sh --device cpu --quick")
card = torch.cuda.get_device_name() if sys.argv[1] == "cuda" else "processor"
print(f"{card}, Python {sys.version.split()[0]}, torch {torch.__version__}, transformers {transformers.__version__}")
PY
rehearse=(); [[ $device == cpu ]] && rehearse=(--rehearse)
stage checks 90 tests.cuda "$device"
stage vision 120 benchmarks.vision --device "$device" "${quick[@]}"
stage decode 240 benchmarks.decode --device "$device" "${quick[@]}" "${rehearse[@]}"
stage "prefill memory" 60 benchmarks.prefill_memory --device "$device" "${quick[@]}"
have PIL prefix && stage prefix 60 benchmarks.prefix --device "$device" "${quick[@]}"
have typer "valley bench" && stage "valley bench" 60 valley_cli bench --device "$device" --model valley-mini --tokens 64
[[ $device == cuda ]] && stage "decode beside compiled transformers" 240 benchmarks.decode --device cuda --compile
echo
if ((${#failed[@]})); then
    echo "not met, not done or not in time after $SECONDS s: ${failed[*]}"
    exit 1
fi
echo "all done in $SECONDS s"

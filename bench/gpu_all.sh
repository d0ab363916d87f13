#!/usr/bin/env bash
# Every figure of a GPU, in order of worth, in 12 minutes at most; what comes first is kept when time runs out.
#     bench/gpu_all.sh FOLDER          from an environment that has the project (deploy/kit/install.sh makes one)
# MOVIELENS=ml-latest-small.zip where it can't be fetched. QUICK=1: small sizes, to try the script on a machine without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?"say where the figures go: bench/gpu_all.sh FOLDER"}
mkdir -p "$out" && out=$(cd "$out" && pwd)
quick=${QUICK:+--quick}
half=0.5 # of the card, for each of two slots
export RERANKER_TUNER_HOME=$out PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
failed=0

step() { # seconds it may take, a name, a command
    local limit=$1 name=$2 began=$SECONDS
    shift 2
    echo "== $name: $*"
    if timeout "$limit" "$@" > "$out/$name.log" 2>&1; then echo "   done in $((SECONDS - began)) s"; else
        echo "   FAILED ($?) after $((SECONDS - began)) s; the end of $out/$name.log:" && tail -n 5 "$out/$name.log"
        failed=1
    fi
}

search=(python tune/run_search.py search_spaces/gpu_smollm2.yaml --no-dashboard --quiet)
if [ -n "$quick" ]; then
    half=0
    search+=(--set fixed.model=demo-tiny --set fixed.examples_per_user=1 --set study.reports_per_epoch=1
        --set data.source=demo --set data.users=200 --set data.evaluation_users=100)
elif [ -n "${MOVIELENS:-}" ]; then
    search+=(--set "data.path=$MOVIELENS")
fi

step 90 agreement python -m bench.agreement $quick --json "$out/agreement.json"
step 150 gpu python -m bench.gpu $quick --json "$out/gpu.json"
step 270 search "${search[@]}" --name gpu-search --set study.time_budget=3m
step 30 seal python -m results.seal gpu-search
slots=(--trials 4 --set fixed.examples_per_user=5 --set study.reports_per_epoch=1 --set study.scheduler=none)
step 90 one-at-once "${search[@]}" --name gpu-one "${slots[@]}" --set study.concurrency=1
step 90 two-at-once "${search[@]}" --name gpu-two "${slots[@]}" --set study.concurrency=2 --set resources.gpus_per_trial="$half"
cat "$out"/search.log "$out"/seal.log 2>/dev/null
exit $failed

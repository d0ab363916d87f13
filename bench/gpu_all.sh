#!/usr/bin/env bash
# Every figure of a GPU, in order of worth, in some 12 minutes; what comes first is kept when time runs out.
#     bench/gpu_all.sh FOLDER          from an environment that has the project (deploy/kit/install.sh makes one)
# MOVIELENS=ml-latest-small.zip where it can't be fetched. QUICK=1: small sizes, to try the script on a machine without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?"say where the figures go: bench/gpu_all.sh FOLDER"}
mkdir -p "$out" && out=$(cd "$out" && pwd)
quick=${QUICK:+--quick}
data=${MOVIELENS:+--set data.path=$MOVIELENS}
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

search() { # a name, and what it is to set besides
    local name=$1
    shift
    python tune/run_search.py search_spaces/gpu_smollm2.yaml --name "$name" --no-dashboard --quiet $data "$@"
}

small=()
if [ -n "$quick" ]; then
    HALF=0
    small=(--set fixed.model=demo-tiny --set "data={source: demo, users: 200, evaluation_users: 100}" --set fixed.examples_per_user=1
        --set study.reports_per_epoch=1)
    data=
fi

step 120 agreement python -m bench.agreement $quick --json "$out/agreement.json"
step 180 gpu python -m bench.gpu $quick --json "$out/gpu.json"
step 300 search search gpu-search --set study.time_budget=4m ${small[@]+"${small[@]}"}
step 60 seal python -m results.seal gpu-search
slots=(--trials 4 --set fixed.examples_per_user=5 --set study.reports_per_epoch=1 --set study.scheduler=none)
step 90 one-at-once search gpu-one ${small[@]+"${small[@]}"} "${slots[@]}" --set study.concurrency=1
step 90 two-at-once search gpu-two ${small[@]+"${small[@]}"} "${slots[@]}" --set study.concurrency=2 --set resources.gpus_per_trial="${HALF:-0.5}"
cat "$out"/search.log "$out"/seal.log 2>/dev/null
exit $failed

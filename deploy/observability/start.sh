#!/bin/sh
# Prometheus, and Grafana where there is one, for the searches of this user on this machine: docker compose where docker is,
# else the programs `prometheus` and `grafana` of the path. All of it listens on 127.0.0.1. Ctrl-C ends it.
#   sh deploy/observability/start.sh [RAY_FOLDER]     RAY_FOLDER: the folder above Ray's session_latest; looked for if left out
set -eu
here=$(cd "$(dirname "$0")" && pwd)
ray=${1:-${RAY_TMPDIR:-/tmp}/reranker-$(id -u)/ray}
state=${XDG_STATE_HOME:-$HOME/.local/state}/reranker-tuner/observability
if [ ! -d "$ray" ]; then
  echo "there is no folder $ray: start a search first, and give the folder above the session that it prints as Ray's logs" >&2
  exit 2
fi
mkdir -p "$state/prometheus" "$state/grafana" "$state/provisioning/datasources" "$state/provisioning/dashboards"
sed "s|RAY_FOLDER|$ray|" "$here/prometheus.yml" > "$state/prometheus.yml"
cp "$here"/grafana/provisioning/datasources/* "$state/provisioning/datasources/"
sed "s|DASHBOARDS|$here/grafana/dashboards|" "$here/grafana/provisioning/dashboards/reranker.yml" \
  > "$state/provisioning/dashboards/reranker.yml"
export GF_SERVER_HTTP_ADDR=127.0.0.1 GF_SERVER_HTTP_PORT=3000 GF_AUTH_ANONYMOUS_ENABLED=true GF_AUTH_ANONYMOUS_ORG_ROLE=Viewer
export GF_SECURITY_ALLOW_EMBEDDING=true GF_ANALYTICS_REPORTING_ENABLED=false GF_ANALYTICS_CHECK_FOR_UPDATES=false
export GF_PATHS_PROVISIONING="$state/provisioning" GF_PATHS_DATA="$state/grafana" GF_PATHS_LOGS="$state/grafana/log"
export GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH="$here/grafana/dashboards/reranker.json"
echo "Prometheus: http://127.0.0.1:9090"
grafana_is_here() {
  echo "Grafana:    http://127.0.0.1:3000"
  echo "Ray's own Metrics page shows both where a search starts with RAY_PROMETHEUS_HOST=http://127.0.0.1:9090 RAY_GRAFANA_HOST=http://127.0.0.1:3000"
}

if command -v docker >/dev/null && docker compose version >/dev/null 2>&1; then
  export RAY_FOLDER="$ray" STATE="$state" DASHBOARDS="$here/grafana/dashboards" USER_ID="$(id -u):$(id -g)"
  grafana_is_here
  exec docker compose --file "$here/docker-compose.yml" up
fi
if ! command -v prometheus >/dev/null; then
  echo "neither docker compose nor prometheus is here (Debian and Ubuntu: apt-get install prometheus)" >&2
  exit 2
fi
children=
end() { [ -z "$children" ] || kill $children 2>/dev/null || true; }
trap end EXIT
trap 'exit 130' INT TERM
prometheus --config.file="$state/prometheus.yml" --storage.tsdb.path="$state/prometheus" \
  --web.listen-address=127.0.0.1:9090 --log.level=warn &
children=$!
if command -v grafana >/dev/null; then
  grafana_is_here
  grafana server --homepath="${GRAFANA_HOME:-/usr/share/grafana}" &
  children="$children $!"
else
  echo "grafana is not here: Prometheus alone, with the same figures at http://127.0.0.1:9090/graph" >&2
fi
wait

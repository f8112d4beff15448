#!/usr/bin/env bash
# Moves the service to a release that install.sh has made, forwards or back, without a failed request:
# `deploy/upgrade.sh /opt/recoup/releases/1.1.0`. The first start is the same command.
#
# The new release starts beside the present one, on the other of two ports. When it is ready, the proxy is told; then the
# former one answers what it has, and stops. The worker follows. Where the new release does not become ready, nothing
# has changed.
set -euo pipefail

release=$(realpath "${1:?"Give the folder of a release, for example: deploy/upgrade.sh /opt/recoup/releases/1.1.0"}")
root=${RECOUP_ROOT:-/opt/recoup}
environment=${RECOUP_ENVIRONMENT:-/etc/recoup/environment}
upstream=$root/upstream.conf
read -r -a ports <<< "${PORTS:-8001 8002}"
# Seconds until the new release must be ready, and until the proxy sends nothing to the former one any more.
patience=${PATIENCE:-60} drain=${DRAIN:-5}

former=$(sed -n 's/^server 127\.0\.0\.1:\([0-9]*\) max_fails=0;$/\1/p' "$upstream" 2>/dev/null || true)
port=${ports[0]}
[ "$former" != "$port" ] || port=${ports[1]}

manage() {
  (set -a && . "$environment" && set +a && cd "$release" && .venv/bin/python manage.py "$@")
}

echo "== check and migrate"
manage check --deploy --fail-level ERROR
manage migrate --verbosity 0

echo "== start $release on port $port"
ln -sfn "$release" "$root/web-$port"
systemctl restart "recoup-web@$port"
for _ in $(seq "$((patience * 2))"); do
  if curl -fs -o /dev/null --max-time 2 "http://127.0.0.1:$port/readyz"; then ready=1 && break; fi
  sleep 0.5
done
if [ -z "${ready:-}" ]; then
  echo "It is not ready after $patience seconds, so nothing was changed:" >&2
  curl -s --max-time 2 "http://127.0.0.1:$port/readyz" >&2 || echo "no answer on port $port; see its log" >&2
  systemctl stop "recoup-web@$port"
  exit 1
fi

echo "== send requests to it"
[ ! -e "$upstream" ] || cp "$upstream" "$upstream.former"
{
  # One failed connection says nothing about the next one.
  echo "server 127.0.0.1:$port max_fails=0;"
  # For processes of the proxy that still end: a connection that is refused goes to the other port.
  for other in "${ports[@]}"; do [ "$other" = "$port" ] || echo "server 127.0.0.1:$other backup;"; done
} > "$upstream.new"
mv "$upstream.new" "$upstream"
if ! systemctl reload-or-restart nginx; then
  [ ! -e "$upstream.former" ] || mv "$upstream.former" "$upstream"
  systemctl stop "recoup-web@$port"
  echo "The proxy does not take it, so nothing was changed: see nginx -t." >&2
  exit 1
fi
rm -f "$upstream.former"
# After a restart of the machine this one starts.
systemctl enable --quiet "recoup-web@$port" recoup-worker

if [ -n "$former" ]; then
  echo "== stop the former one on port $former"
  sleep "$drain"
  systemctl stop "recoup-web@$former"
  systemctl disable --quiet "recoup-web@$former"
fi

echo "== the worker"
ln -sfn "$release" "$root/worker"
systemctl restart recoup-worker
echo "The service runs $release."

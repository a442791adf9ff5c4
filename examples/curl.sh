#!/bin/sh
# A session with curl: price two rows, make them, follow the progress, save a picture, look at the money.
#
#   examples/curl.sh [DIR]      ORCHESTRATOR_URL says where the service is, ORCHESTRATOR_KEY is the key, if it wants one
set -eu
url=${ORCHESTRATOR_URL:-http://127.0.0.1:9090}
folder=${1:-.}
mkdir -p "$folder"
ask() { curl --silent --show-error --fail-with-body ${ORCHESTRATOR_KEY:+-H "Authorization: Bearer $ORCHESTRATOR_KEY"} "$@"; }

rows='scene_id,prompt,variants
mug,"A blue mug, steaming, on a window sill",2
lamp,A paper lantern lamp at dusk,1'

echo "# What it would cost; nothing is written or spent."
echo "$rows" | ask "$url/images" -H 'Content-Type: text/csv' --data-binary @-

echo; echo "# Make it. The same rows have the same Idempotency-Key, so this pays once however often it is run (in 24 hours)."
name=curl-$(echo "$rows" | cksum | tr -d ' ')
answer=$(echo "$rows" | ask "$url/images?runMode=live" -H 'Content-Type: text/csv' -H "Idempotency-Key: $name" --data-binary @-)
batch=$(echo "$answer" | sed 's/.*"batchId":"\([^"]*\)".*/\1/')
echo "$batch"

echo "# The progress, until it is done. Cut off, it goes on with -H 'Last-Event-ID: N'."
ask --no-buffer "$url/images/$batch/events"

echo "# A picture by its lasting address, which redirects to a fresh link."
ask --location --output "$folder/mug_v1.png" "$url/images/$batch/items/mug/1"

echo "# What was spent today."
ask "$url/budget"; echo

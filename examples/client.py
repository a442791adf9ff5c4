#!/usr/bin/env python3
"""Makes the rows of a CSV file and saves the pictures. Python's standard library, nothing else.

    examples/client.py ROWS.csv DIR      ORCHESTRATOR_URL says where the service is, ORCHESTRATOR_KEY is the key
"""
import hashlib, http.client, json, os, pathlib, sys, time, urllib.error, urllib.request

BASE, KEY = os.environ.get("ORCHESTRATOR_URL", "http://127.0.0.1:9090"), os.environ.get("ORCHESTRATOR_KEY")

def ask(path, body=None, headers={}):
    request = urllib.request.Request(BASE + path, body, headers)
    if KEY:  # for the service alone: it does not go along to where a picture's address redirects
        request.add_unredirected_header("Authorization", f"Bearer {KEY}")
    return urllib.request.urlopen(request, timeout=90)

try:
    rows, folder, batch = pathlib.Path(sys.argv[1]).read_bytes(), pathlib.Path(sys.argv[2]), {"finishedAt": None}
    # The same rows under the same name are the same batch: asked for until it is done, it is paid once (within 24 hours).
    name = {"Content-Type": "text/csv", "Idempotency-Key": hashlib.sha256(rows).hexdigest(), "Prefer": "wait=30"}
    while not batch["finishedAt"]:
        try:
            batch = json.load(ask("/images?runMode=live", rows, name))
            print(batch["counts"]["completed"], "of", batch["counts"]["total"], file=sys.stderr)
        except urllib.error.HTTPError:
            raise  # the service says what is wrong
        except (OSError, http.client.HTTPException):
            time.sleep(1)  # nobody is there, or the connection broke
    folder.mkdir(parents=True, exist_ok=True)
    for row in map(json.loads, ask(f"/images/{batch['batchId']}/results?format=jsonl")):
        if row["file"]:
            (folder / row["file"]).write_bytes(ask(row["permalink"]).read())
            print(row["file"])
        else:
            print(row["sceneId"], row["variant"], (row["error"] or row)["detail" if row["error"] else "state"], file=sys.stderr)
    sys.exit(batch["counts"]["completed"] < batch["counts"]["total"])
except urllib.error.HTTPError as problem:
    sys.exit(problem.read().decode())

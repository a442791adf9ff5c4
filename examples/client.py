#!/usr/bin/env python3
"""Makes the rows of a CSV file and saves the pictures as they come. Python's standard library, nothing else.

    examples/client.py ROWS.csv DIR      ORCHESTRATOR_URL says where the service is, ORCHESTRATOR_KEY is the key
"""
import hashlib, http.client, json, os, pathlib, sys, time, urllib.error, urllib.parse, urllib.request

BASE, KEY = os.environ.get("ORCHESTRATOR_URL", "http://127.0.0.1:9090"), os.environ.get("ORCHESTRATOR_KEY")

def ask(path, body=None, headers={}):
    key = {"Authorization": f"Bearer {KEY}"} if KEY else {}
    return urllib.request.urlopen(urllib.request.Request(BASE + path, body, {**key, **headers}), timeout=60)

def events(batch, last=0):
    """Every event once, in order; opened again where the connection breaks, from the last event that was seen."""
    while True:
        try:
            with ask(f"/images/{batch}/events", headers={"Last-Event-ID": str(last)}) as stream:
                for line in filter(lambda line: line.startswith(b"data: "), stream):
                    event = json.loads(line[6:])
                    last = event["seq"]
                    yield event
                    if event["type"] == "done":
                        return
        except urllib.error.HTTPError:
            raise  # the service says why
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(1)

try:
    rows, folder = pathlib.Path(sys.argv[1]).read_bytes(), pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    # The same rows under the same name are the same batch, so that a repeated command pays once (within 24 hours).
    headers = {"Content-Type": "text/csv", "Idempotency-Key": hashlib.sha256(rows).hexdigest()}
    batch = json.load(ask("/images?runMode=live", rows, headers))["batchId"]
    for event in events(batch):
        if event["type"] == "image_complete":
            name = f"{event['sceneId']}_v{event['variant']}.{event['mimeType'].split('/')[1].replace('jpeg', 'jpg')}"
            # The link carries its own right; the key goes to the service alone.
            with urllib.request.urlopen(urllib.parse.urljoin(BASE, event["url"]), timeout=60) as picture:
                (folder / name).write_bytes(picture.read())
            print(name)
        elif event["type"] == "image_failed":
            print(event["sceneId"], event["variant"], event["error"]["detail"], file=sys.stderr)
    sys.exit(event["counts"]["completed"] < event["counts"]["total"])
except urllib.error.HTTPError as problem:
    sys.exit(problem.read().decode())

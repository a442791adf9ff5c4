"""What schemathesis cannot know: how rows are written that are neither JSON nor plain text."""

import schemathesis


@schemathesis.serializer("application/jsonl", "application/x-ndjson")
def lines(context, value):
    """Rows as they are described: text."""
    return {"data": value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")}

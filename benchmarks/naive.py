"""The proxy that a user would write in forty lines, to compare with."""

import sys

import requests
from flask import Flask, Response, request
from waitress import serve

PORT, UPSTREAM, PROXY_KEY = sys.argv[1:4]
PROVIDER_KEY = "sk-provider"
NOT_SENT = {"host", "connection", "content-length", "authorization", "transfer-encoding"}
NOT_RETURNED = {"connection", "keep-alive", "transfer-encoding", "content-encoding"}

app = Flask(__name__)


@app.route("/<path:path>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def forward(path: str) -> Response | tuple[dict[str, str], int]:
    if request.headers.get("Authorization") != f"Bearer {PROXY_KEY}":
        return {"error": "Invalid API key"}, 401
    headers = {k: v for k, v in request.headers.items() if k.lower() not in NOT_SENT}
    headers["Authorization"] = f"Bearer {PROVIDER_KEY}"
    answer = requests.request(
        method=request.method,
        url=f"{UPSTREAM}/{path}",
        params=request.args.to_dict(flat=False),
        headers=headers,
        data=request.get_data(),
        stream=True,
        allow_redirects=False,
        timeout=600,
    )
    back = [(k, v) for k, v in answer.headers.items() if k.lower() not in NOT_RETURNED]
    return Response(answer.iter_content(chunk_size=None), answer.status_code, back)


if __name__ == "__main__":
    # As many threads as llmauth has: with waitress's four, the fifth stream would wait.
    serve(app, host="127.0.0.1", port=int(PORT), threads=264, connection_limit=1000)

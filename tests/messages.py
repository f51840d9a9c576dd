"""What clients ask and upstreams answer, as the capture's tests record it."""

JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "text/event-stream; charset=utf-8"}
BODY = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}'

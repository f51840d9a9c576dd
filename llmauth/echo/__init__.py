"""The built-in backend: answers in the formats of OpenAI, Anthropic and Google, from the question.

A request comes in as it would go to a provider; a reply goes out, whole or as the pieces of a
stream. No network and no key: it is for the demo, and for trying clients. `backend` finds the
module of the API that a request is for; `question` reads the request, `example` makes what fits a
schema that it gives, and `reply` frames the answer.
"""

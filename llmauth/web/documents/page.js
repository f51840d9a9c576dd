// The page at /docs asks a model with the key that is typed. The key is read from its field when a
// request is sent, goes into a header and nowhere else.

$("base-url").after(addCopyButton($("base-url"), "base URL"));

// What is sent, and where the text is in what comes back

const APIS = {
  openai: {
    model: "gpt-4o-mini",
    headers: (key) => ({ Authorization: `Bearer ${key}` }),
    path: () => "/v1/chat/completions",
    models: "/v1/models",
    body: (model, text) => ({ model, stream: true, messages: [{ role: "user", content: text }] }),
    piece: (event) => event.choices?.[0]?.delta?.content,
    whole: (answer) => answer.choices?.[0]?.message?.content,
  },
  anthropic: {
    model: "claude-haiku-4-5",
    headers: (key) => ({ "x-api-key": key, "anthropic-version": "2023-06-01" }),
    path: () => "/v1/messages",
    models: "/v1/models",
    body: (model, text) => ({
      model,
      max_tokens: 1000,
      stream: true,
      messages: [{ role: "user", content: text }],
    }),
    piece: (event) => event.delta?.text,
    whole: (answer) => answer.content?.map((part) => part.text ?? "").join(""),
  },
  gemini: {
    model: "gemini-2.5-flash",
    headers: (key) => ({ "x-goog-api-key": key }),
    path: (model) => `/v1beta/models/${encodeURIComponent(model)}:streamGenerateContent?alt=sse`,
    models: "/v1beta/models",
    body: (model, text) => ({ contents: [{ role: "user", parts: [{ text }] }] }),
    piece: (event) => event.candidates?.[0]?.content?.parts?.map((p) => p.text ?? "").join(""),
    whole: (answer) => APIS.gemini.piece(answer),
  },
};

const TITLES = {
  400: "The request cannot be understood",
  401: "The key is missing or wrong",
  403: "Not permitted",
  404: "There is nothing at this path",
  413: "The message is too long",
  429: "The provider has had enough for now",
  502: "The provider could not be reached",
  503: "The server is full or being restarted",
  504: "The provider did not answer in time",
};
const LOCKED_OUT = "too_many_failed_attempts";

// Telling people what happens

let running = null;
let waiting = null;

// The answer's place may be out of sight: on a phone it is below the form.
function reveal() {
  $("result").scrollIntoView({ block: "nearest" });
}

function makeRoom() {
  const below = $("result").offsetTop >= $("form").offsetTop + $("form").offsetHeight;
  $("result").scrollIntoView({ block: below ? "start" : "nearest" }); // it grows
}

function reset(text) {
  clearInterval(waiting);
  waiting = null;
  $("answer").replaceChildren();
  $("problem").replaceChildren();
  $("countdown").hidden = true;
  $("status").textContent = text;
}

function busy(controller) {
  running = controller;
  $("send").disabled = $("list").disabled = controller !== null || waiting !== null;
  $("stop").hidden = controller === null;
  // A screen reader reads the answer when it is whole, not word by word.
  $("answer").setAttribute("aria-busy", String(controller !== null));
}

function tell(title, ...lines) {
  $("status").textContent = "";
  $("problem").replaceChildren(
    ...[title, ...lines].filter(Boolean).map((text, number) => {
      const line = document.createElement("p");
      if (number === 0) line.className = "title";
      line.textContent = text;
      return line;
    }),
  );
  reveal();
}

function countDown(seconds) {
  const until = Date.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    $("countdown").textContent = `Wait ${left} s`;
    if (left > 0) return;
    clearInterval(waiting);
    waiting = null;
    $("countdown").hidden = true;
    $("problem").replaceChildren();
    $("status").textContent = "You can try again now.";
    busy(running);
  };
  waiting = setInterval(tick, 250);
  $("countdown").hidden = false;
  tick();
}

async function explain(response) {
  const body = await response.json().catch(() => null);
  const error = (Array.isArray(body) ? body[0] : body)?.error ?? {};
  const locked = error.code === LOCKED_OUT;
  const id = response.headers.get("x-request-id") ?? response.headers.get("request-id");
  const after = Number(response.headers.get("retry-after"));
  if (locked && after > 0) countDown(after);
  tell(
    locked
      ? "Too many wrong keys came from your address"
      : `${TITLES[response.status] ?? "It did not work"} (${response.status})`,
    locked
      ? "Until the time is up the right key is refused, too. Check the key before you try again."
      : error.message ?? (typeof error === "string" ? error : null),
    id ? `Request id: ${id}` : null,
  );
}

function failed(error, answered) {
  if (error.name === "AbortError") {
    $("status").textContent = "Stopped.";
  } else if (answered) {
    tell("The answer broke off", error.message);
  } else {
    tell("The server could not be reached", "Is it still running, and your network up?");
  }
}

// Asking

function ask(path, options) {
  const key = $("key").value.trim();
  // Header values are bytes; a key with other characters would be refused by the browser unsaid.
  if (!/^[\x21-\x7e]*$/.test(key)) {
    tell("This cannot be a key", "It holds spaces or characters that no key has.");
    return null;
  }
  const backend = $("backend").value.trim();
  const api = APIS[$("api").value];
  return fetch(base + (backend && `/${encodeURIComponent(backend)}`) + path, {
    ...options,
    headers: { ...(key && api.headers(key)), ...options.headers },
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    referrerPolicy: "no-referrer",
  });
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trim()).join("\n");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function read(response, api, started) {
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
    $("answer").append(api.whole(await response.json()) ?? "");
    $("status").textContent = "Done, in one piece: this backend does not stream.";
    return;
  }
  let pieces = 0;
  let first = 0;
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message);
    const text = api.piece(event);
    if (!text) continue;
    pieces += 1;
    first ||= performance.now() - started;
    $("answer").append(text);
    $("answer").scrollTop = $("answer").scrollHeight;
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  $("status").textContent =
    `Done: ${pieces} pieces in ${seconds} s, the first after ${Math.round(first)} ms.`;
}

async function send() {
  if (running || waiting) return;
  const api = APIS[$("api").value];
  const model = $("model").value.trim();
  const controller = new AbortController();
  let response;
  reset("Waiting for the first words ...");
  makeRoom();
  busy(controller);
  try {
    const started = performance.now();
    response = await ask(api.path(model), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(api.body(model, $("question").value)),
      signal: controller.signal,
    });
    if (response?.ok) await read(response, api, started);
    else if (response) await explain(response);
  } catch (error) {
    failed(error, response);
  }
  busy(null);
}

async function listModels() {
  if (running || waiting) return;
  const controller = new AbortController();
  let response;
  reset("Asking for the models ...");
  busy(controller);
  try {
    response = await ask(APIS[$("api").value].models, { signal: controller.signal });
    if (response?.ok) offer(await response.json());
    else if (response) await explain(response);
  } catch (error) {
    failed(error, response);
  }
  busy(null);
}

function offer(answer) {
  const found = (answer.data ?? answer.models ?? [])
    .map((model) => model.id ?? model.name?.replace(/^models\//, ""))
    .filter(Boolean);
  $("models").replaceChildren(
    ...found.map((name) => {
      const option = document.createElement("option");
      option.value = name;
      return option;
    }),
  );
  if (found.length && !found.includes($("model").value)) $("model").value = found[0];
  $("status").textContent = found.length
    ? `${found.length} models, now in the list of the field "Model".`
    : "The backend names no models.";
  reveal();
}

function chooseApi() {
  $("model").value = APIS[$("api").value].model;
  $("models").replaceChildren();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
$("stop").addEventListener("click", () => running?.abort());
$("list").addEventListener("click", listModels);
$("api").addEventListener("change", chooseApi);
$("answer").dataset.empty = "The answer appears here, word by word.";
chooseApi();
$("fields").disabled = false;

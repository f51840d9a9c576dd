// The page at /dashboard shows what the server tells of its keys. The key that is entered is kept in
// this one variable: in no storage, cookie or address, and in no element of the page.

let key = null;

const EVERY = 5000; // milliseconds between two looks
const MOST_KEYS = 100; // in the document; a search finds the others
const LIMITS = {
  budget: "Budget",
  tokens_per_day: "Tokens a day",
  tokens_per_minute: "Tokens a minute",
  requests_per_minute: "Requests a minute",
  parallel: "Requests at a time",
};
const PERIODS = { day: "today", week: "this week", month: "this month", total: "in all" };
const DAY = 86_400_000;

// Figures and times, for people

const SPACE = "\u202f"; // narrow, and no line breaks at it

function rounded(number) {
  for (const [size, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (number < (size === 1e3 ? 1e4 : size * 0.99995)) continue;
    return `${(number / size).toFixed(1).replace(/\.0$/, "")}${SPACE}${unit}`;
  }
  return Math.round(number).toLocaleString("en");
}

function dollars(amount) {
  if (amount === null || amount === undefined) return "unknown";
  if (amount > 0 && amount < 0.005) return `<${SPACE}$0.01`;
  if (amount >= 1e6) return `$${rounded(amount)}`;
  const digits = amount >= 1e4 ? 0 : 2;
  const how = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return `$${amount.toLocaleString("en", how)}`;
}

function duration(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return "unknown";
  if (milliseconds < 1000) return `${milliseconds}${SPACE}ms`;
  if (milliseconds < 120_000) return `${(milliseconds / 1000).toFixed(1)}${SPACE}s`;
  return `${Math.round(milliseconds / 60_000)}${SPACE}min`;
}

function shown(at, parts) {
  return new Intl.DateTimeFormat("en-GB", parts).format(new Date(at));
}

function moment(at) {
  const year = new Date(at).getFullYear() !== new Date().getFullYear();
  const day = { day: "numeric", month: "short", ...(year && { year: "numeric" }) };
  return shown(at, { ...day, hour: "2-digit", minute: "2-digit" });
}

function clock(at) {
  const parts = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const today = new Date(at).toDateString() === new Date().toDateString();
  return shown(at, today ? parts : { day: "numeric", month: "short", ...parts });
}

function ago(at) {
  if (!at) return "never";
  const minutes = (Date.now() - new Date(at)) / 60_000;
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${Math.floor(minutes)} min ago`;
  return minutes < 1440 ? `${Math.floor(minutes / 60)} h ago` : moment(at);
}

function dayName(day) {
  return shown(`${day}T00:00:00Z`, { day: "numeric", month: "short", timeZone: "UTC" });
}

function isoDay(at) {
  return new Date(at).toISOString().slice(0, 10);
}

// When a period of the calendar begins anew, in UTC as the server counts.
function anew(period) {
  const now = new Date();
  const [year, month, day] = [now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate()];
  return {
    day: Date.UTC(year, month, day + 1),
    week: Date.UTC(year, month, day + 7 - ((now.getUTCDay() + 6) % 7)),
    month: Date.UTC(year, month + 1, 1),
  }[period];
}

function count(number, noun) {
  return `${rounded(number)} ${noun}${number === 1 ? "" : "s"}`;
}

const modelName = (model) => model || "(no model named)";

// Elements, which are kept as long as what they show is there: so is the focus

function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && name !== "role") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function sync(parent, items, name, make, fill) {
  const before = new Map([...parent.children].map((child) => [child.dataset.name, child]));
  let place = parent.firstElementChild;
  items.forEach((item, number) => {
    const id = String(name(item, number));
    let child = before.get(id);
    before.delete(id);
    if (!child) {
      child = make(item);
      child.dataset.name = id;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    fill(child, item);
  });
  for (const child of before.values()) child.remove();
}

function fillTable(table, rows, texts) {
  const labels = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  texts.forEach((number) => table.tHead.rows[0].cells[number].classList.add("text"));
  const make = (row) => h("tr", { role: "row" }, ...row.map((_, number) => {
    const cell = h("td", { role: "cell" });
    if (texts.includes(number)) cell.className = "text";
    return cell;
  }));
  const fill = (line, row) => row.forEach((text, number) => {
    const cell = line.cells[number];
    say(cell, String(text));
    cell.dataset.label = labels[number];
    cell.toggleAttribute("data-key", labels[number] === "Key");
  });
  sync(table.tBodies[0], rows, (_, number) => number, make, fill);
  table.hidden = rows.length === 0;
}

// Asking

class Refused extends Error {
  constructor(status, message, after) {
    super(message);
    this.status = status;
    this.after = after;
  }
}

const TITLES = {
  400: "The server did not understand",
  401: "This key does not let you in",
  403: "Not permitted",
  404: "There is nothing",
  409: "This name is taken",
  429: "Too many wrong keys came from your address",
  500: "The server failed",
  503: "The server is busy, or its database fails",
};

async function ask(method, path, body) {
  let response;
  try {
    response = await fetch(`${base}/-/${path}`, {
      method,
      headers: {
        Authorization: `Bearer ${key}`,
        ...(body && { "Content-Type": "application/json" }),
      },
      body: body && JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
      signal: AbortSignal.timeout(30_000),
    });
  } catch {
    throw new Refused(0, "The server could not be reached. Is it still running, and your network up?");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const title = `${TITLES[response.status] ?? "It did not work"} (${response.status}).`;
  throw new Refused(
    response.status,
    `${title} ${answer.error?.message ?? ""}`.trim(),
    Number(response.headers.get("retry-after")),
  );
}

function problem(text) {
  if (text === $("problem").textContent) return;
  $("problem").replaceChildren(...(text ? [h("p", {}, text)] : []));
}

let doneTimer;
function done(text) {
  say($("done"), text);
  clearTimeout(doneTimer);
  doneTimer = setTimeout(() => say($("done"), ""), 6000);
}

// Looking, again and again

let timer = null;
let looking = 0;
let paused = false;
let seen = null;
let measure = null;

function since() {
  const now = new Date();
  return {
    today: isoDay(now),
    "7d": isoDay(now - 6 * DAY),
    "30d": isoDay(now - 29 * DAY),
    month: isoDay(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), 1)),
  }[document.querySelector("[name=range]:checked").value];
}

async function look() {
  clearTimeout(timer);
  const turn = (looking += 1);
  const started = performance.now();
  let wait = EVERY;
  try {
    const by = seen ? $("by").value : "";
    const answer = await ask("GET", `overview?since=${since()}${by && `&by=${by}`}`);
    answer.by = by || (answer.admin ? "key" : "model");
    const found = encodeURIComponent($("find").value.trim());
    const keys = answer.admin ? await ask("GET", `keys?limit=${MOST_KEYS}&find=${found}`) : null;
    if (turn !== looking || key === null) return;
    problem("");
    showAll(answer, keys);
    wait = Math.max(EVERY, 10 * (performance.now() - started)); // spares a server that is slow
  } catch (error) {
    if (turn !== looking || key === null) return;
    if (!(error instanceof Refused)) throw error;
    if (!seen || [401, 403, 404].includes(error.status)) return forget(error.message);
    problem(`${error.message} What you see is from ${$("fresh").dataset.at}.`);
    wait = Math.max(EVERY, (error.after || 0) * 1000);
  }
  if (!paused) timer = setTimeout(lookIfSeen, wait);
}

function lookIfSeen() {
  if (document.hidden) timer = null;
  else look();
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && timer === null && key !== null && !paused) look();
});

function forget(message) {
  clearTimeout(timer);
  looking += 1;
  key = seen = measure = null;
  for (const dialog of document.querySelectorAll("dialog[open]")) close(dialog);
  $("page").hidden = $("nav").hidden = true;
  for (const list of document.querySelectorAll("#page tbody, #page ul")) list.replaceChildren();
  $("chart").replaceChildren();
  $("enter").hidden = false;
  problem(message);
  $("key").focus();
}

$("enter-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const typed = $("key").value.trim();
  // Header values are bytes; a key with other characters would be refused by the browser unsaid.
  if (!/^[\x21-\x7e]+$/.test(typed)) {
    problem("This cannot be a key: it holds spaces or characters that no key has, or nothing.");
    return;
  }
  key = typed;
  problem("");
  look();
});

$("leave").addEventListener("click", () => forget(""));
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  say($("pause"), paused ? "Go on updating" : "Pause updates");
  if (paused) clearTimeout(timer);
  else look();
});
$("range").addEventListener("change", look);
$("by").addEventListener("change", look);
$("measure").addEventListener("change", () => {
  measure = $("measure").value;
  draw(seen);
});
let typing;
$("find").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(look, 250);
});
new ResizeObserver(() => seen && draw(seen)).observe($("chart"));

// Showing

function showAll(answer, keys) {
  const first = seen === null;
  seen = answer;
  if (first) begin(answer);
  const now = new Date();
  $("fresh").dataset.at = clock(now);
  say($("fresh"), `Updated at ${clock(now)}`);
  const totals = answer.totals;
  const partly = totals.cost_usd !== null && answer.attention.price;
  say($("cost"), (partly ? "≥" + SPACE : "") + dollars(totals.cost_usd));
  say($("input"), rounded(totals.input_tokens));
  say($("output"), rounded(totals.output_tokens));
  say($("number"), rounded(totals.requests));
  say($("errors"), rounded(totals.errors));
  $("errors").classList.toggle("bad", totals.errors > 0);
  say($("running"), rounded(answer.running));
  if (measure === null) {
    measure = totals.cost_usd ? "cost_usd" : "tokens";
    $("measure").value = measure;
  }
  draw(answer);
  showModels(answer.models);
  showAttention(answer.attention);
  showRequests(answer);
  if (keys) showKeys(keys);
  else showLeft(answer.key);
}

function begin(answer) {
  $("key").value = "";
  $("enter").hidden = true;
  $("page").hidden = $("nav").hidden = false;
  for (const one of document.querySelectorAll("[data-admin]")) one.hidden = !answer.admin;
  for (const one of document.querySelectorAll("[data-own]")) one.hidden = answer.admin;
  $("by").value = answer.admin ? "key" : "model";
  $("page").classList.toggle("own-key", !answer.admin);
  say($("title"), answer.admin ? "All keys" : `The key '${answer.name}'`);
  $("title").tabIndex = -1;
  $("title").focus();
}

function amount(row) {
  if (measure === "tokens") return row.input_tokens + row.output_tokens;
  return row[measure] ?? 0;
}

function figure(number) {
  return measure === "cost_usd" ? dollars(number) : rounded(number);
}

function draw(answer) {
  const { by } = answer;
  const names = [...answer.series, null];
  const named = (name) => (name === null ? "all others" : by === "model" ? modelName(name) : name);
  const days = [];
  const first = answer.days.reduce((day, row) => (row.day < day ? row.day : day), isoDay(Date.now() - 6 * DAY));
  const begins = answer.since < first ? answer.since : first;
  for (let at = Date.parse(begins); isoDay(at) <= answer.until; at += DAY) days.push(isoDay(at));
  const rows = new Map(answer.days.map((row) => [JSON.stringify([row.day, row[by]]), row]));
  const cell = (day, name) => rows.get(JSON.stringify([day, name]));
  const sums = days.map((day) =>
    names.reduce((sum, name) => sum + (cell(day, name) ? amount(cell(day, name)) : 0), 0));
  $("chart").replaceChildren(picture(days, names, cell, sums, named));
  const used = names.filter((name) => days.some((day) => cell(day, name)));
  sync($("legend"), used, (name) => JSON.stringify(name), (name) => h("li", {},
    svg("svg", { viewBox: "0 0 1 1", "aria-hidden": "true" },
      svg("rect", { width: 1, height: 1 })), h("span")),
  (item, name) => {
    item.querySelector("rect").setAttribute("class", `s${series(names, name)}`);
    say(item.querySelector("span"), named(name));
  });
  say($("days-group"), by === "key" ? "Key" : "Model");
  fillTable($("days"), answer.days.toReversed().map((row) => [
    dayName(row.day), named(row[by]), rounded(row.requests),
    rounded(row.input_tokens + row.output_tokens), dollars(row.cost_usd),
  ]), [0, 1]);
}

const series = (names, name) => (name === null ? 8 : names.indexOf(name));

function picture(days, names, cell, sums, named) {
  const width = Math.max(280, $("chart").clientWidth);
  const [height, left, bottom, top] = [200, 56, 24, 10];
  const most = Math.max(...sums, 0);
  const ceiling = scale(most);
  const what = $("measure").selectedOptions[0].textContent;
  const peak = days[sums.indexOf(most)];
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  picture.setAttribute("aria-label", most
    ? `${what} a day, ${dayName(days[0])} to ${dayName(days.at(-1))}: most on ${dayName(peak)}, `
      + `${figure(most)}. All figures are in the table below.`
    : `${what} a day: none in this time.`);
  const y = (number) => top + (height - top - bottom) * (1 - number / ceiling);
  for (const mark of [0, ceiling / 2, ceiling]) {
    picture.append(
      svg("line", { x1: left, x2: width, y1: y(mark), y2: y(mark) }),
      svg("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, most || !mark ? figure(mark) : ""),
    );
  }
  const step = (width - left) / days.length;
  const each = Math.ceil(64 / step);
  days.forEach((day, number) => {
    const x = left + step * number;
    let at = 0;
    for (const name of names) {
      const row = cell(day, name);
      const size = row ? amount(row) : 0;
      if (!size) continue;
      const bar = svg("rect", {
        x: x + step * 0.15,
        width: Math.min(step * 0.7, 80),
        y: y(at + size),
        height: Math.max(0.5, y(at) - y(at + size)),
        class: `s${series(names, name)}`,
      });
      bar.append(svg("title", {}, `${dayName(day)}, ${named(name)}: ${figure(size)}`));
      picture.append(bar);
      at += size;
    }
    if ((days.length - 1 - number) % each === 0) {
      const middle = x + step * 0.15 + Math.min(step * 0.7, 80) / 2;
      const end = middle > width - 24;
      picture.append(svg("text",
        { x: end ? width : middle, y: height - 6, "text-anchor": end ? "end" : "middle" }, dayName(day)));
    }
  });
  return picture;
}

function scale(most) {
  const isMoney = measure === "cost_usd";
  const least = isMoney ? 0.02 : 2; // of which half can still be told
  const size = 10 ** Math.floor(Math.log10(Math.max(most, least)));
  const steps = isMoney ? [1, 1.5, 2, 3, 4, 5, 6, 8, 10] : [1, 2, 4, 6, 8, 10];
  return steps.find((one) => one * size >= Math.max(most, least) * (1 - 1e-9)) * size;
}

function showModels(models) {
  fillTable($("model-table"), models.map((one) => [
    modelName(one.model), rounded(one.requests), rounded(one.input_tokens),
    rounded(one.output_tokens), dollars(one.cost_usd), duration(one.first_byte_ms),
  ]), [0]);
  $("models-none").hidden = models.length > 0;
}

const REFUSALS = {
  rate_limit_exceeded: "too many a minute",
  insufficient_quota: "all used up",
  too_many_parallel_requests: "too many at a time",
  client_left: "the client left",
  broke_off: "the provider broke off",
};

function ending(request) {
  const [how, why] = request.ended.split(": ");
  const words = (code) => REFUSALS[code] ?? code.replaceAll("_", " ");
  let text = why ? `${how}: ${words(why)}` : words(how);
  if (how === "complete" && request.status >= 400) {
    text = request.status < 500 ? "the provider refused it" : "the provider failed";
  }
  return request.status >= 400 ? `${text} (${request.status})` : text;
}

function showRequests(answer) {
  const known = (number) => (number === null ? "unknown" : rounded(number));
  fillTable($("request-table"), answer.requests.map((one) => {
    const about = one.estimated ? "~" : "";
    return [
      clock(one.at), one.key, modelName(one.model), ending(one), about + known(one.input_tokens),
      about + known(one.output_tokens), dollars(one.cost_usd), duration(one.ms),
    ];
  }), [0, 1, 2, 3]);
  $("requests-none").hidden = answer.requests.length > 0;
  $("requests-note").hidden = answer.requests.length === 0;
}

// What needs attention

const ADVICE = {
  failure: (one) => `The ${one.of} fails: ${one.state}.`,
  lockout: (one) => `${one.address} is locked out until ${clock(one.until)}, for wrong keys.`,
  limit: (one) => {
    const { share, told, begins } = measured(one.limit, one.used, one.of);
    return `'${one.key}' is at ${Math.round(share * 100)} % of a limit: ${told}.${begins}`;
  },
  expiry: (one) => `'${one.key}' expires on ${moment(one.at)}.`,
  price: (one) => `${modelName(one.model)} has no price: ${count(one.requests, "request")} without `
    + `dollars.${seen.admin ? " Set one in accounts.prices." : ""}`,
  unknown: (one) => `The backend '${one.backend}' did not tell the usage of `
    + `${count(one.requests, "request")}.`,
};

function showAttention(attention) {
  const items = Object.keys(ADVICE).flatMap((kind) => {
    const { number = 0, first = [] } = attention[kind] ?? {};
    const more = number - first.length;
    const rest = more > 0 ? [{ kind, text: `And ${rounded(more)} more of these.` }] : [];
    return [...first.map((one) => ({ ...one, kind, text: ADVICE[kind](one) })), ...rest];
  });
  sync($("attention-list"), items,
    ({ kind, key, limit, address, of, model, backend }) =>
      JSON.stringify([kind, key, limit, address, limit ? "" : of, model, backend]),
    (one) => {
      const item = h("li", { className: one.kind }, h("span"));
      if (one.address) {
        const button = h("button", { type: "button" }, "Let in");
        button.setAttribute("aria-label", `Let ${one.address} in`);
        button.addEventListener("click", () => letIn(one.address));
        item.append(button);
      }
      return item;
    },
    (item, one) => say(item.querySelector("span"), one.text));
  $("attention-none").hidden = items.length > 0;
  const number = Object.values(attention).reduce((sum, one) => sum + one.number, 0);
  $("hint-attention").hidden = number === 0;
  say($("hint-attention").firstElementChild, `${count(number, "thing")} to look at`);
}

async function letIn(address) {
  try {
    await ask("DELETE", `lockouts/${encodeURIComponent(address).replaceAll("%3A", ":")}`);
    done(`${address} is let in again.`);
    $("attention-title").tabIndex = -1;
    $("attention-title").focus();
  } catch (error) {
    problem(error.message);
  }
  look();
}

// Limits

function measured(limit, used, of) {
  if (limit === "budget") {
    const [most, period] = String(of).split("/");
    const spent = parseFloat(used ?? "0");
    const begins = anew(period) ? ` It begins anew on ${moment(anew(period))}.` : "";
    const left = Math.max(0, most - spent);
    return {
      share: most > 0 ? spent / most : 1, begins, left: `${dollars(left)} left`,
      told: `${dollars(spent)} of ${dollars(Number(most))} ${PERIODS[period]}`,
    };
  }
  const number = used ?? 0;
  const what = {
    tokens_per_day: "tokens today",
    tokens_per_minute: "tokens within a minute",
    requests_per_minute: of === 1 ? "request within a minute" : "requests within a minute",
    parallel: of === 1 ? "request at a time" : "requests at a time",
  }[limit];
  return {
    share: number / of,
    told: `${rounded(number)} of ${rounded(of)} ${what}`,
    left: `${rounded(Math.max(0, of - number))} left`,
    begins: limit === "tokens_per_day" ? ` It begins anew on ${moment(anew("day"))}.` : "",
  };
}

const limitsOf = (record) => Object.keys(LIMITS).filter((name) => record[name]);

function makeMeter() {
  const track = svg("rect", { class: "track", width: 100, height: 6 });
  const level = svg("rect", { class: "level", width: 0, height: 6 });
  const bar = { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" };
  return h("div", { className: "meter" }, h("span"), h("b"), svg("svg", bar, track, level));
}

function fillMeter(meter, record, name) {
  const { share, told } = measured(name, record.used[name], record[name]);
  const high = share > 0.8;
  say(meter.querySelector("span"), told);
  say(meter.querySelector("b"), high ? ` · ${Math.round(share * 100)} %` : "");
  meter.classList.toggle("high", high);
  meter.querySelector(".level").setAttribute("width", Math.min(100, share * 100));
}

function showLeft(record) {
  const names = record ? limitsOf(record) : [];
  sync($("left-list"), names, (name) => name,
    () => h("li", {}, h("div", {}, h("b"), h("p", { className: "hint" })), makeMeter()),
    (item, name) => {
      const { left, begins } = measured(name, record.used[name], record[name]);
      say(item.querySelector("b"), `${LIMITS[name]}: ${left}`);
      say(item.querySelector("p"), begins.trim()
        || (name.endsWith("minute") ? "Of the last 60 seconds, all the time." : "Until one has ended."));
      fillMeter(item.querySelector(".meter"), record, name);
    });
  const notes = [];
  if (!names.length) notes.push("This key has no limits.");
  if (record?.expires) notes.push(`It expires on ${moment(record.expires)}.`);
  if (record) notes.push(may(record));
  say($("left-none"), notes.filter(Boolean).join(" "));
}

function may(record) {
  const notes = [];
  if (record.models.length) notes.push(`Models: ${record.models.join(", ")}.`);
  if (record.backends.length) notes.push(`Backends: ${record.backends.join(", ")}.`);
  if (record.from.length) notes.push(`Only from ${record.from.join(", ")}.`);
  return notes.join(" ");
}

// Keys

const records = new Map();

function showKeys({ keys, number }) {
  records.clear();
  for (const record of keys) records.set(record.name, record);
  sync($("key-list"), keys, (record) => record.name, makeKey, fillKey);
  const searched = $("find").value.trim();
  let text = number > keys.length
    ? `${keys.length} of ${rounded(number)} keys are shown. Search to find the others.`
    : count(number, "key");
  if (!number) text = searched ? `No key's name or note holds '${searched}'.` : "No keys yet: make one.";
  say($("key-count"), text);
  $("welcome").hidden = searched !== "" || number !== 1;
  say($("welcome"), "Only your own key is there yet. Make one for a colleague: press 'Make a key', "
    + "type a name, and hand over what you are shown.");
}

function makeKey(record) {
  const actions = h("div", { className: "actions" });
  for (const [word, action] of [["Change", change], ["Pause", pauseOrResume], ["Rotate", rotate], ["Revoke", revoke]]) {
    const button = h("button", { type: "button" }, word);
    button.dataset.word = word;
    button.setAttribute("aria-label", `${word} ${record.name}`);
    button.addEventListener("click", () => action(records.get(record.name)));
    actions.append(button);
  }
  return h("li", {},
    h("div", {}, h("h3", {}, record.name, " ", h("span")), h("p", { className: "about" })),
    h("div", {}, h("p", { className: "last" }), h("p", { className: "ends" })),
    h("div", { className: "meters" }),
    actions);
}

function fillKey(item, record) {
  const badge = item.querySelector("h3 span");
  badge.className = `badge ${record.state}`;
  say(badge, record.state);
  const about = [record.note, record.admin && "Admin", `Ends in ${record.hint}`, may(record)];
  say(item.querySelector(".about"), about.filter(Boolean).join(" · "));
  say(item.querySelector(".last"), `Last used: ${ago(record.last_used)}`);
  const past = record.state === "expired" ? "Expired" : "Expires";
  say(item.querySelector(".ends"), record.expires ? `${past} on ${moment(record.expires)}` : "Does not expire");
  const names = limitsOf(record);
  const meters = item.querySelector(".meters");
  sync(meters, names.length ? names : [""], (name) => name,
    (name) => (name ? makeMeter() : h("p", {}, "No limits")),
    (meter, name) => name && fillMeter(meter, record, name));
  item.querySelector(".actions").hidden = record.state === "revoked";
  const word = record.state === "paused" ? "Resume" : "Pause";
  const button = item.querySelector("[data-word=Pause]");
  say(button, word);
  button.setAttribute("aria-label", `${word} ${record.name}`);
}

const path = (name) => `keys/${encodeURIComponent(name)}`;

async function pauseOrResume(record) {
  const paused = record.state !== "paused";
  const act = async () => {
    await ask("PATCH", path(record.name), { paused });
    done(`${record.name} is ${paused ? "paused" : "good again"}.`);
  };
  if (paused && record.name === seen.name) {
    sure(`Pause '${record.name}'?`, "This is the key that you use here: this page will end. "
      + `'llmauth keys resume ${record.name}' on the server undoes it.`, "Pause", act);
    return;
  }
  try {
    await act();
  } catch (error) {
    problem(error.message);
  }
  look();
}

function revoke(record) {
  const own = record.name === seen.name ? " This is the key that you use here: this page will end." : "";
  sure(`Revoke '${record.name}'?`,
    "It lets nobody in any more, and its running requests end. This cannot be undone, and no other key "
      + `can have this name. Its usage stays.${own}`,
    "Revoke", async () => {
      await ask("DELETE", path(record.name));
      done(`${record.name} is revoked.`);
    });
}

function rotate(record) {
  sure(`Make a new key for '${record.name}'?`,
    "Name, limits and usage stay. Programs need the new key as soon as the old one ends.",
    "Make a new key", async () => {
      const answer = await ask("POST", `${path(record.name)}/rotate`, { overlap: $("overlap").value });
      if (record.name === seen.name) key = answer.key;
      tellKey(answer);
    }, true);
}

// Dialogs

function close(dialog) {
  dialog.close();
  if (dialog === $("made")) untell(); // its event comes later
}

for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => close(button.closest("dialog")));
}

let agreed = null;

function sure(title, text, yes, act, overlap = false) {
  say($("sure-title"), title);
  say($("sure-text"), text);
  say($("sure-yes"), yes);
  say($("sure-problem"), "");
  $("sure-yes").classList.toggle("danger", !overlap);
  $("overlap-field").hidden = !overlap;
  $("overlap").value = "0s";
  agreed = act;
  $("sure").showModal();
}

async function whileBusy(button, place, act) {
  button.disabled = true;
  say(place, "");
  try {
    await act();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(place, error.message);
  } finally {
    button.disabled = false;
  }
}

$("sure-form").addEventListener("submit", (event) => {
  event.preventDefault();
  whileBusy($("sure-yes"), $("sure-problem"), async () => {
    await agreed();
    close($("sure"));
    look();
  });
});

// Making and changing

let changing = null;
const NUMBERS = ["requests_per_minute", "tokens_per_minute", "tokens_per_day", "parallel"];
const LISTS = { models: "allowed", backends: "backends", from: "from" };

function openForm(record) {
  changing = record;
  $("edit-form").reset();
  say($("edit-problem"), "");
  say($("edit-title"), record ? `Change '${record.name}'` : "Make a key");
  say($("save"), record ? "Save" : "Make the key");
  $("name").readOnly = record !== null;
  const times = [["", "never"], ["7d", "in 7 days"], ["30d", "in 30 days"], ["90d", "in 90 days"],
    ["365d", "in a year"], ["date", "on a day ..."]];
  if (record?.expires) times.unshift(["keep", `on ${moment(record.expires)}, as it is`]);
  $("expires").replaceChildren(...times.map(([value, text]) => h("option", { value }, text)));
  $("until-field").hidden = true;
  const tomorrow = new Date(Date.now() + DAY);
  $("until").min = shown(tomorrow, { dateStyle: "short" }).split("/").reverse().join("-");
  if (record) {
    $("name").value = record.name;
    $("note").value = record.note;
    const [most, period] = (record.budget ?? "/month").split("/");
    $("dollars").value = most;
    $("period").value = period;
    for (const name of NUMBERS) $(name).value = record[name] ?? "";
    for (const [name, id] of Object.entries(LISTS)) $(id).value = record[name].join(", ");
    $("admin").checked = record.admin;
  }
  $("more").open = record !== null;
  $("edit").showModal();
  $(record ? "note" : "name").focus();
}

const change = (record) => openForm(record);
$("add").addEventListener("click", () => openForm(null));
$("expires").addEventListener("change", () => {
  $("until-field").hidden = $("expires").value !== "date";
});

class Wrong extends Refused {
  constructor(id, message) {
    super(0, message);
    $(id).focus();
  }
}

function number(id) {
  const field = $(id);
  if (field.validity.badInput) throw new Wrong(id, `${field.labels[0].textContent}: this is no number.`);
  return field.value === "" ? null : Number(field.value);
}

function typed() {
  const name = $("name").value.trim();
  if (!name) throw new Wrong("name", "Name: say whose key it is.");
  const values = { name, note: $("note").value.trim() };
  const most = number("dollars");
  values.budget = most === null ? null : `${$("dollars").value.trim()}/${$("period").value}`;
  const when = $("expires").value;
  if (when === "date") {
    if (!$("until").value) throw new Wrong("until", "Expires: choose a day.");
    values.expires = new Date(`${$("until").value}T23:59:59`).toISOString();
  } else if (when !== "keep") values.expires = when || null;
  for (const one of NUMBERS) values[one] = number(one);
  for (const [one, id] of Object.entries(LISTS)) {
    values[one] = $(id).value.split(/[\s,]+/).filter(Boolean);
  }
  values.admin = $("admin").checked;
  return values;
}

async function save() {
  const values = typed();
  const { name, ...fields } = values;
  if (!changing) {
    const isEmpty = (value) => value === null || value === "" || value === false || value.length === 0;
    const given = Object.entries(fields).filter(([, value]) => !isEmpty(value));
    const answer = await ask("POST", "keys", { name, ...Object.fromEntries(given) });
    close($("edit"));
    tellKey(answer);
  } else {
    const changed = Object.entries(fields)
      .filter(([one, value]) => JSON.stringify(value) !== JSON.stringify(changing[one] ?? null));
    await ask("PATCH", path(changing.name), Object.fromEntries(changed));
    close($("edit"));
    done(`${changing.name} is changed.`);
  }
  look();
}

$("edit-form").addEventListener("submit", (event) => {
  event.preventDefault();
  whileBusy($("save"), $("edit-problem"), save);
});

// A new key is shown once

const examples = [...document.querySelectorAll("#tabs code")].map((code) => [code, code.cloneNode(true)]);
const PLACES = /os\.environ\["LLM_INTERACTIVE_PROXY_API_KEY"\]|process\.env\.LLM_INTERACTIVE_PROXY_API_KEY/g;
const VARIABLE = /\$LLM_INTERACTIVE_PROXY_API_KEY/g;

function tellKey(record) {
  say($("made-title"), `The key of '${record.name}'`);
  say($("made-key"), record.key);
  say($("made-problem"), "");
  const model = record.models.find((name) => !/[*?[]/.test(name));
  for (const [code, original] of examples) {
    const filled = original.textContent
      .replace(PLACES, `"${record.key}"`)
      .replace(VARIABLE, record.key)
      .replace(/gpt-4o-mini/g, (name) => model ?? name);
    say(code, filled);
  }
  $("made").showModal();
  $("made-key").focus();
}

$("made-key").after(addCopyButton($("made-key"), "the key"));
$("made-close").addEventListener("click", () => close($("made")));
// Esc is pressed soon, and the key then gone.
$("made").addEventListener("cancel", (event) => {
  event.preventDefault();
  say($("made-problem"), "Once this is closed, the key is shown never again. Close it with the button.");
});

function untell() {
  say($("made-key"), "");
  for (const [code, original] of examples) code.replaceChildren(...original.cloneNode(true).childNodes);
}
$("made").addEventListener("close", untell);

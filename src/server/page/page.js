// The page: what the operations of the server tell, as a person sees it. Every text that comes from the server becomes a text
// node and never markup. Nothing is kept but the token, in the session's storage of this tab.

// ---- Elements ------------------------------------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);

/** What would turn the order of signs, or stand for nothing: controls of terminals and of the direction of text. */
const ACTS = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** A text as the terminal shows it: without colours, and with controls that can be seen. */
function visible(text) {
  return String(text).replace(/\x1b\[[0-9;:]*m/g, "").replace(ACTS, (sign) => {
    const code = sign.charCodeAt(0);
    return code < 32 ? `^${String.fromCharCode(code + 64)}` : `<U+${code.toString(16).toUpperCase().padStart(4, "0")}>`;
  });
}

/** Makes an element: properties and `on…` handlers, `aria-…`, `role` and `data-…` attributes, and children. Texts stay texts. */
function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name in element && !name.startsWith("aria")) element[name] = value;
    else element.setAttribute(name, value);
  }
  const shown = children.flat(9).filter((child) => child !== null && child !== undefined);
  element.append(...shown.map((child) => (child instanceof Node ? child : visible(child))));
  return element;
}

/** A table whose cells say on a narrow screen what column they are of. The roles stay when the style makes blocks of it. */
function table(caption, columns, rows) {
  const head = columns.map((name) => h("th", { scope: "col", role: "columnheader" }, name));
  const body = rows.map((cells) => h("tr", { role: "row" }, cells.map((cell, at) =>
    h("td", { role: "cell", "data-label": columns[at] }, cell))));
  return h("table", { role: "table", "aria-label": caption },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, body));
}

function say(text) {
  $("said").textContent = text;
}

function trouble(text) {
  $("trouble").textContent = visible(text ?? "");
  $("trouble").hidden = !text;
}

/** Asks before what cannot be undone by a click. */
function ask(title, text, yes) {
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-yes").textContent = yes;
  const dialog = $("ask");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// ---- Units ---------------------------------------------------------------------------------------------------------------

const short = (id) => (id ?? "").slice(0, 13);
// What a record that was lost would know is not known.
const when = (ms) => (ms ? h("time", { dateTime: new Date(ms).toISOString(), title: new Date(ms).toLocaleString() },
  new Date(ms).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })) : "unknown");

function took(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms < 1000) return `${ms} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  return s < 86400 ? `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min` : `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function bytes(n) {
  if (n === null || n === undefined) return "";
  let unit = 0;
  while (n >= 1024 && unit < 4) [n, unit] = [n / 1024, unit + 1];
  return `${unit ? n.toFixed(1) : n} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

const GOOD = ["success", "staged", "done", "healthy", "started", "live"];
const BAD = ["failed", "cancelled", "rolled_back", "error", "exited", "absent", "held", "removed", "stopped"];
const ENDED = ["success", "staged", "failed", "cancelled", "rolled_back"];

function status(word) {
  const kind = GOOD.includes(word) ? "good" : BAD.includes(word) ? "bad" : word === "skipped" ? "faint" : "busy warn";
  return h("span", { className: `status ${kind}` }, String(word).replaceAll("_", " "));
}

// ---- The server ----------------------------------------------------------------------------------------------------------

const KEPT = "gangplank.token";
let token = sessionStorage.getItem(KEPT);
let me = { name: null, role: "read" };
/** How many servers this one replicates to. */
let peers = 0;

class Refused extends Error {
  constructor(status, body) {
    super(body?.error ?? `the server answered ${status}`);
    this.status = status;
    this.body = body;
  }
}

/** Sends a request. What is not a success is thrown as the server's own words; a token that is nobody's ends the session. */
async function send(path, options, events) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (events) headers.Accept = "text/event-stream";
  const answer = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  if (answer.ok) return answer;
  let body = null;
  try {
    body = await answer.json();
  } catch {
    // A proxy's page is not the server's word; its status says enough.
  }
  if (answer.status === 401 && token) signOut("This session has ended or was revoked. Sign in again.");
  throw new Refused(answer.status, body);
}

const post = (fields, events, signal) => send("./", {
  method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(fields),
}, events);
const operate = async (operation, fields, signal) => (await post({ operation, ...fields }, false, signal)).json();

/** The records of a stream of Server-Sent Events, as they come. */
async function* records(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let one = { id: null, event: "message", data: [] };
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const at = line.indexOf(":");
        if (line === "") {
          if (one.data.length) yield { ...one, data: JSON.parse(one.data.join("\n")) };
          one = { id: null, event: "message", data: [] };
        } else if (at > 0) {
          const [name, text] = [line.slice(0, at), line.slice(at + 1).replace(/^ /, "")];
          if (name === "data") one.data.push(text);
          else if (name === "id" || name === "event") one[name] = text;
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
});

/** Follows a deployment to its end. After a cut, or a restart of the server, it goes on behind the last event that it had. */
async function follow(id, take, signal, cut) {
  let last = 0;
  let wait = 200;
  while (!signal.aborted) {
    try {
      const answer = await send(`deployments/${id}/events`, { signal, headers: last ? { "Last-Event-ID": String(last) } : {} }, true);
      if (answer.status === 204) return;
      cut(false);
      for await (const one of records(answer)) {
        const number = Number(one.id ?? 0);
        if (one.id && number <= last) continue;
        if (one.id) [last, wait] = [number, 200];
        take(one);
        if (one.event === "done" || one.event === "error") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      // Full and stopping pass; what else is refused stays refused.
      if (error instanceof Refused && error.status < 500) throw error;
    }
    cut(true);
    await pause(wait, signal);
    wait = Math.min(wait * 2, 5000);
  }
}

/** Begins a deployment that has no payload, and shows it as soon as the server says its id. */
async function begin(operation, fields) {
  const control = new AbortController();
  const answer = await post({ operation, ...fields }, true, control.signal);
  for await (const one of records(answer)) {
    const id = one.data.deployment_id;
    if (id) {
      location.hash = `#/d/${id}`;
      break;
    }
    if (one.event === "error") throw new Refused(0, { error: one.data.message });
  }
  control.abort();
}

// ---- Lines ---------------------------------------------------------------------------------------------------------------

const PART_LINES = 200;
const LINES_MAX = 20000;

/** Lines as they come. They are drawn once a frame, in parts that are laid out only where they are seen; the oldest go. */
class Lines {
  constructor(label) {
    this.waiting = [];
    this.count = 0;
    this.gone = 0;
    this.note = h("p", { className: "note", hidden: true });
    this.box = h("div", { className: "lines", role: "log", "aria-label": label, "aria-live": "off", tabIndex: 0 }, this.note);
    this.part = null;
    this.follows = true;
    this.box.addEventListener("scroll", () => {
      this.follows = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 40;
    });
  }

  add(text, kind = "") {
    this.waiting.push([text, kind]);
    if (this.waiting.length === 1) requestAnimationFrame(() => this.draw());
    // A tab that is not seen draws nothing, and must not keep all.
    else if (this.waiting.length > LINES_MAX * 2) this.gone += this.waiting.splice(0, LINES_MAX).length;
  }

  draw() {
    for (const [text, kind] of this.waiting) {
      if (!this.part || this.part.childElementCount >= PART_LINES) {
        this.part = h("div", { className: "part" });
        this.box.append(this.part);
      }
      this.part.append(h("p", { className: kind }, text));
      this.count += 1;
    }
    this.waiting = [];
    while (this.count > LINES_MAX) {
      const oldest = this.note.nextElementSibling;
      this.count -= oldest.childElementCount;
      this.gone += oldest.childElementCount;
      oldest.remove();
    }
    this.note.hidden = !this.gone;
    this.note.textContent = `${this.gone} earlier lines are not shown`;
    if (this.follows) this.box.scrollTop = this.box.scrollHeight;
  }

  clear() {
    [this.waiting, this.count, this.gone, this.part, this.follows] = [[], 0, 0, null, true];
    this.box.replaceChildren(this.note);
    this.note.hidden = true;
  }
}

// ---- Views ---------------------------------------------------------------------------------------------------------------

const may = (role) => ["read", "deploy", "admin"].indexOf(me.role) >= ["read", "deploy", "admin"].indexOf(role);
const title = (text) => h("h1", { tabIndex: -1 }, text);
const component = (name) => h("a", { href: `#/c/${name}` }, name);
const deployment = (id) => h("a", { href: `#/d/${id}`, title: id, className: "mono" }, short(id));

/** A button that does something at the server; while it does it cannot be pressed, and what is refused is said beside it. */
function button(label, act, properties) {
  const one = h("button", { type: "button", ...properties }, label);
  one.addEventListener("click", async () => {
    one.disabled = true;
    trouble(null);
    try {
      await act();
    } catch (error) {
      trouble(error.message);
    }
    one.disabled = false;
  });
  return one;
}

async function save(name, answer) {
  name = /filename="(.+)"/.exec(answer.headers.get("Content-Disposition"))?.[1] ?? name;
  const url = URL.createObjectURL(await answer.blob());
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

function processes(one) {
  if (one.stopped) return "stopped";
  if (!one.processes.length) return h("span", { className: "faint" }, "no processes");
  const up = one.processes.filter((process) => process.pid && !process.ended).length;
  return h("span", { className: `status ${up === one.processes.length ? "good" : "bad"}` }, `${up} of ${one.processes.length} up`);
}

/** Looks again every two seconds while somebody sees it, and draws only what is other than before. */
async function keep(signal, look, draw) {
  let before = null;
  while (!signal.aborted) {
    if (!document.hidden) {
      try {
        const found = await look();
        if (signal.aborted) return;
        trouble(null);
        // What only counts on is not worth a redraw, which would take a selection away.
        const now = JSON.stringify(found, (name, value) => (["uptime_ms", "memory", "requests", "disk_free"].includes(name) ? undefined : value));
        if (now !== before) draw(found);
        before = now;
      } catch (error) {
        if (signal.aborted || (error instanceof Refused && error.status === 401)) return;
        if (error instanceof Refused && error.status === 404) throw error;
        trouble(`The server cannot be reached: ${error.message}. The page tries again.`);
      }
    }
    await pause(2000, signal);
  }
}

/** A short word, which is not torn apart where a column is narrow. */
const word = (text) => (text && text.length <= 16 ? h("span", { className: "word" }, text) : text);

function historyTable(caption, list, withComponent) {
  const columns = ["Deployment", ...(withComponent ? ["Component"] : []), "Status", "Kind", "When", "Took", "Who", "What"];
  return table(caption, columns, list.map((one) => [
    deployment(one.deployment_id),
    ...(withComponent ? [component(one.project)] : []),
    status(one.status),
    word(one.kind),
    when(one.started_at),
    word(took(one.elapsed_ms)),
    word(one.user ?? ""),
    [one.message, one.source?.commit?.slice(0, 10), one.package_identifier, one.error?.message].filter(Boolean).join(" · "),
  ]));
}

async function showComponents(main, signal) {
  const list = h("section", { "aria-label": "Components" }, "Loading…");
  const last = h("section", {}, "");
  main.replaceChildren(title("Components"), list, last);
  await keep(signal, async () => [await operate("get_components", {}, signal), await operate("list_deployments", { limit: 10 }, signal)],
    ([{ components }, { deployments }]) => {
      list.replaceChildren(components.length
        ? table("Components", ["Component", "Live", "Since", "Processes"], components.map((one) => [
          component(one.project), deployment(one.deployment_id), when(one.since), processes(one)]))
        : h("p", {}, "Nothing is deployed here yet: ", h("code", {}, "gangplank deploy"), " deploys the directory that it is called in."));
      last.replaceChildren(h("h2", {}, "Last deployments"), historyTable("Last deployments", deployments, true));
    });
}

/** A list of deployments with its older pages, for one component or for all. */
function history(main, fields, signal) {
  const box = h("div", {});
  const more = button("Older", () => page(), { hidden: true });
  let offset = 0;
  async function page() {
    const found = await operate("list_deployments", { ...fields, limit: 50, offset }, signal);
    offset += found.deployments.length;
    box.append(historyTable("Deployments", found.deployments, !fields.project));
    more.hidden = offset >= found.total;
  }
  main.append(h("section", {}, h("h2", {}, "Deployments"), box, more));
  return page();
}

async function showHistory(main, signal) {
  main.replaceChildren(title("History"));
  await history(main, {}, signal);
}

/** How long each phase of a record took, by its kept events. */
function phases(record) {
  const known = new Map();
  for (const { event, data } of record.event_log ?? []) {
    if (event === "phase" && data.elapsed_ms !== undefined) known.set(data.phase, data.elapsed_ms);
  }
  return known;
}

const COLOURS = ["fetch", "extract", "install", "load", "replicate", "release", "activate", "restart"];
const colour = (phase) => `p${Math.max(COLOURS.indexOf(phase), 0) % 8}`;

function bar(times, whole) {
  const parts = [...times].filter(([, ms]) => ms > 0).map(([phase, ms]) => {
    const part = h("i", { className: colour(phase), title: `${phase} ${took(ms)}` });
    part.style.width = `${(100 * ms) / whole}%`;
    return part;
  });
  const words = [...times].map(([phase, ms]) => `${phase} ${took(ms)}`).join(", ");
  return h("span", { className: "bar", role: "img", "aria-label": words || "no times" }, parts);
}

function chart(list) {
  const rows = list.filter((one) => one.elapsed_ms && ["deploy", "activate", "rollback"].includes(one.kind)).map((one) => [one, phases(one)]);
  if (!rows.length) return null;
  const longest = Math.max(...rows.map(([one, times]) => Math.max(one.elapsed_ms, [...times.values()].reduce((a, b) => a + b, 0))));
  const seen = COLOURS.filter((phase) => rows.some(([, times]) => times.has(phase)));
  return h("section", {},
    h("h2", {}, "How long deployments took"),
    h("ul", { className: "legend" }, seen.map((phase) => h("li", {}, h("i", { className: colour(phase) }), phase))),
    h("ol", { className: "chart" }, rows.map(([one, times]) => h("li", {},
      deployment(one.deployment_id), bar(times, longest), h("span", { className: "took" }, took(one.elapsed_ms))))));
}

function logs(project, types, signal) {
  const lines = new Lines(`Log of ${project}`);
  const type = h("select", { "aria-label": "Process type" }, h("option", { value: "" }, "all types"), types.map((one) => h("option", {}, one)));
  let control = new AbortController();
  signal.addEventListener("abort", () => control.abort());
  async function read() {
    control.abort();
    const mine = (control = new AbortController());
    let wait = 500;
    while (!mine.signal.aborted && !signal.aborted) {
      try {
        const fields = { operation: "get_logs", project, lines: 200, follow: true, ...(type.value && { type: type.value }) };
        const answer = await post(fields, true, mine.signal);
        // After a cut the last lines come once more, so what is shown begins anew: none twice and none missing.
        lines.clear();
        for await (const { event, data } of records(answer)) {
          if (event === "log") lines.add(`${data.at.slice(11, 23)} ${data.type} ${data.line}`, data.stream === "stderr" ? "err" : data.stream === "gangplank" ? "note" : "");
          wait = 500;
        }
      } catch (error) {
        if (mine.signal.aborted || signal.aborted) return;
        if (error instanceof Refused && error.status < 500) return lines.add(error.message, "note");
      }
      await pause(wait, mine.signal);
      wait = Math.min(wait * 2, 5000);
    }
  }
  type.addEventListener("change", read);
  read();
  return h("section", {}, h("h2", {}, "Log"), h("div", { className: "buttons" }, type,
    h("span", { className: "faint" }, "It follows while you are at its end.")), lines.box);
}

/** Which view asked for all hosts; it stays while what it shows is drawn anew. */
let everywhere = null;

function actions(one, project) {
  const has = one.processes.length > 0 || one.stopped;
  const all = h("input", { type: "checkbox", checked: everywhere === project });
  all.addEventListener("change", () => (everywhere = all.checked ? project : null));
  const fields = () => ({ project, ...(all.checked && { replicated: true }) });
  const where = () => (all.checked ? ` On this host and ${count(peers, "peer")}.` : "");
  const restart = button("Restart", async () => {
    if (await ask("Restart", `The processes of ${project} are stopped and started again.${where()}`, "Restart")) await begin("restart_component", fields());
  });
  const stop = button("Stop", async () => {
    if (await ask("Stop", `The processes of ${project} stay stopped until they are started.${where()}`, "Stop")) say((await operate("stop_component", fields())).message);
  });
  const start = button("Start", async () => say((await operate("start_component", fields())).message));
  const back = button("Roll back", async () => {
    if (await ask("Roll back", `The release of ${project} that was live before becomes live again.${where()}`, "Roll back")) await begin("rollback_component", { ...fields(), restart: "auto" });
  });
  return h("div", { className: "buttons", role: "group", "aria-label": `What to do with ${project}` },
    has ? [restart, one.stopped ? start : stop] : null, one.releases.length > 1 ? back : null,
    peers ? h("label", {}, all, " on all hosts") : null);
}

/** What is live of a component on this host and its peers. These are asked when that is drawn, and when somebody asks. */
function hosts(project, signal) {
  const box = h("div", {}, "Loading…");
  async function look() {
    const found = await operate("get_components", { peers: true }, signal);
    box.replaceChildren(table("Hosts", ["Host", "Live", "Since", "Processes"], found.hosts.map((host) => {
      const one = (host.components ?? []).find((other) => other.project === project);
      if (!host.reachable) return [host.host, h("span", { className: "status bad" }, "not reached"), "", host.error ?? ""];
      return one ? [host.host, h("span", { className: "mono", title: one.release_id }, short(one.release_id)), when(one.since), processes(one)]
        : [host.host, h("span", { className: "faint" }, "nothing of it"), "", ""];
    })));
  }
  look().catch((error) => signal.aborted || box.replaceChildren(error.message));
  return h("section", {}, h("h2", {}, "Hosts"), box, h("div", { className: "buttons" }, button("Look again", look)));
}

function releases(one, list, project) {
  const known = new Map(list.map((record) => [record.deployment_id, record]));
  const rows = [...one.releases].reverse().map((id) => {
    const record = known.get(id);
    const live = id === one.release_id;
    const back = live ? status("success").cloneNode() : !may("deploy") ? "" : button("Make live", async () => {
      if (await ask("Make this release live", `${short(id)} becomes the live release of ${project}.`, "Make live")) {
        await begin("rollback_component", { project, deployment_id: id, restart: "auto" });
      }
    }, { "aria-label": `Make ${short(id)} live` });
    if (live) back.append("live");
    return [deployment(id), record ? when(record.started_at) : "", [record?.message, record?.source?.commit?.slice(0, 10)].filter(Boolean).join(" · "), back];
  });
  return h("section", {}, h("h2", {}, "Releases that are kept"), table("Releases", ["Release", "Built", "What", ""], rows));
}

async function showComponent(main, signal, project) {
  const top = h("div", {}, "Loading…");
  const log = h("div", {});
  const past = h("div", {});
  main.replaceChildren(title(project), top, log, past);
  let shown = null;
  await keep(signal, async () => {
    const [{ components }, { deployments }] = [await operate("get_components", {}, signal),
      await operate("list_deployments", { project, limit: 15, include_events: true }, signal)];
    const one = components.find((other) => other.project === project);
    if (!one && !deployments.length) throw new Refused(404, { error: `There is no component ${project}.` });
    return [one, deployments];
  }, ([one, deployments]) => {
    const running = deployments.find((record) => !ENDED.includes(record.status));
    top.replaceChildren(...[
      running ? h("p", { className: "warn" }, "A deployment runs: ", deployment(running.deployment_id), " ", status(running.status)) : null,
      one ? h("section", {},
        h("p", {}, "Live: ", deployment(one.deployment_id), " since ", when(one.since)),
        one.stopped ? h("p", { className: "warn" }, "Its processes are stopped until they are started.") : null,
        one.processes.length ? h("h2", {}, "Processes") : null,
        one.processes.length ? table("Processes", ["Type", "State", "Process", "Up", "Restarts", "Memory", "Release"], one.processes.map((process) => [
          process.type,
          process.ended ? h("span", { className: "status bad" }, String(process.ended)) : status("started"),
          process.pid ?? "", took(process.uptime_ms), process.restarts ?? "", bytes(process.memory),
          process.release_id === one.release_id ? "live" : [short(process.release_id), " (not the live one)"],
        ])) : null,
        may("deploy") ? actions(one, project) : null) : h("p", {}, "Nothing of it is live."),
      peers ? hosts(project, signal) : null,
      one ? releases(one, deployments, project) : null,
      chart(deployments),
    ].filter(Boolean));
    const types = (one?.processes ?? []).map((process) => process.type).join();
    if (types !== shown) {
      shown = types;
      log.replaceChildren(logs(project, types ? types.split(",") : [], signal));
    }
    if (!past.hasChildNodes()) history(past, { project }, signal).catch((error) => trouble(error.message));
  });
}

/** A deployment as its events tell it, from the first to the end. */
class Story {
  constructor(id) {
    this.id = id;
    this.phases = new Map();
    this.peers = new Map();
    this.warnings = [];
    this.list = h("ol", { className: "phases" });
    this.bar = h("div", {});
    this.state = h("p", {}, status("pending"));
    this.facts = h("p", { className: "faint" });
    this.upload = h("div", { hidden: true });
    this.failure = h("p", { className: "failure", role: "alert", hidden: true });
    this.notes = h("ul", { className: "warn", hidden: true });
    this.hosts = h("section", { hidden: true });
    this.lines = new Lines("Lines of the installation and of the processes");
  }

  take({ event, data }) {
    const on = this[`on_${event}`];
    if (on) on.call(this, data);
  }

  on_deployment(data) {
    this.project = data.project;
    for (const name of data.phases) this.phases.set(name, { status: "waiting" });
    this.facts.replaceChildren(component(data.project), ` on ${data.origin_node ?? "this host"}, `, when(data.at),
      data.user ? ` by ${data.user}` : "", ...(data.previous ? [" over ", deployment(data.previous)] : []));
    this.draw();
  }

  on_phase(data) {
    const before = this.phases.get(data.phase) ?? {};
    this.phases.set(data.phase, { ...before, ...data, began: data.status === "start" ? performance.now() : before.began });
    if (data.status === "start") this.state.replaceChildren(status(data.phase));
    if (data.status !== "start") say(`${data.phase} ${data.status}`);
    this.upload.hidden = true;
    this.draw();
  }

  on_upload({ bytes: now, total }) {
    this.upload.hidden = false;
    const text = total ? `${bytes(now)} of ${bytes(total)} (${Math.floor((100 * now) / total)}%)` : bytes(now);
    this.upload.replaceChildren(h("p", {}, `Received ${text}`), h("progress", { "aria-label": "Upload", max: total || 1, ...(total && { value: now }) }));
  }

  on_install({ stream, line }) {
    this.lines.add(line, stream === "stderr" ? "err" : "");
  }

  on_process({ type, pid, status: word, line, stream }) {
    this.lines.add([type, pid && `(${pid})`, word, line].filter(Boolean).join(" "), stream === "stderr" ? "err" : "note");
  }

  on_peer({ peer, event, data }) {
    const one = this.peers.get(peer) ?? {};
    if (event === "phase") Object.assign(one, { phase: data.phase, status: data.status });
    if (event === "upload") one.bytes = data.bytes;
    if (event === "done") one.status = "success";
    if (event === "error") Object.assign(one, { status: "error", message: data.message });
    if (event === "install" || event === "warning") this.lines.add(`[${peer}] ${data.line ?? data.message}`, data.stream === "stderr" ? "err" : "");
    this.peers.set(peer, one);
    this.hosts.hidden = false;
    this.hosts.replaceChildren(h("h2", {}, "Peers"), table("Peers", ["Peer", "Phase", "State", "Why"], [...this.peers].map(([name, at]) =>
      [name, at.phase ?? "", status(at.status ?? "pending"), at.message ?? (at.bytes ? bytes(at.bytes) : "")])));
  }

  on_warning({ message }) {
    this.notes.hidden = false;
    this.notes.append(h("li", {}, message));
  }

  on_truncated({ dropped_events: n }) {
    this.lines.add(`${n} events are not kept any longer`, "note");
  }

  on_done({ result }) {
    this.end(result.status ?? "success", result.message);
  }

  on_error(data) {
    for (const one of data.process_output ?? []) this.lines.add(`${one.type} ${one.line}`, one.stream === "stderr" ? "err" : "");
    this.failure.hidden = false;
    this.failure.textContent = visible(`${data.message} (${data.code})`);
    this.end({ cancelled: "cancelled", unhealthy: "rolled_back" }[data.code] ?? "failed");
  }

  end(word, message) {
    this.over = true;
    this.upload.hidden = true;
    this.state.replaceChildren(status(word), message ? ` ${message}` : "");
    say(message ?? `The deployment ended: ${word}`);
    this.draw();
  }

  draw() {
    this.list.replaceChildren(...[...this.phases].map(([name, one]) => {
      const runs = one.status === "start" && !this.over;
      const time = runs ? took(Math.round((performance.now() - one.began) / 100) * 100) : took(one.elapsed_ms);
      const word = runs ? "running" : one.status === "start" ? "cut off" : one.status;
      const facts = [one.message, one.manager && `using ${one.manager}`, one.lines && count(one.lines, "line"), one.files && count(one.files, "file"),
        one.unpacked_size && bytes(one.unpacked_size)].filter(Boolean).join(", ");
      return h("li", {}, h("strong", {}, name), h("span", {}, time), h("span", {}, word === "waiting" ? h("span", { className: "faint" }, this.over ? "not reached" : "waiting") : status(word), facts ? ` ${facts}` : ""));
    }));
    const times = new Map([...this.phases].map(([name, one]) => [name, one.elapsed_ms ?? 0]));
    const whole = [...times.values()].reduce((a, b) => a + b, 0);
    this.bar.replaceChildren(...(whole ? [bar(times, whole)] : []));
  }
}

async function showDeployment(main, signal, id) {
  const story = new Story(id);
  const cancel = button("Cancel the deployment", async () => {
    if (await ask("Cancel", "The deployment is stopped, and what was live stays live.", "Cancel the deployment")) {
      say((await operate("cancel_deployment", { deployment_id: id })).message);
    }
  });
  const record = button("Download the record", async () => save(`deployment-${id}.json`, await post({ operation: "get_deployment", deployment_id: id })));
  const payload = button("Download the payload", async () => save(`deployment-${id}.tar`, await post({ operation: "get_deployment_payload", deployment_id: id })));
  const about = h("dl", {});
  main.replaceChildren(title(`Deployment ${short(id)}`), story.facts, story.state, story.failure, story.notes,
    h("div", { className: "buttons" }, may("deploy") ? cancel : null, record, may("admin") ? payload : null),
    h("section", {}, h("h2", {}, "Phases"), story.bar, story.upload, story.list),
    story.hosts,
    h("section", {}, h("h2", {}, "Lines"), story.lines.box));
  const tick = setInterval(() => !document.hidden && story.draw(), 500);
  signal.addEventListener("abort", () => clearInterval(tick));
  await follow(id, (one) => story.take(one), signal, (is) => trouble(is ? "The stream of events was cut. The page goes on where it stopped." : null));
  clearInterval(tick);
  if (signal.aborted) return;
  cancel.hidden = true;
  const end = await operate("get_deployment", { deployment_id: id }, signal);
  story.end(end.status, end.status === "success" ? story.state.textContent.replace(/^\S+ /, "") : undefined);
  payload.disabled = !end.payload_present;
  const facts = [["Kind", end.kind], ["Message", end.message], ["Commit", end.source?.commit], ["Took", took(end.elapsed_ms)],
    ["Payload", end.payload_size && `${bytes(end.payload_size)}, ${end.payload_hash}`]].filter(([, text]) => text);
  about.replaceChildren(...facts.flatMap(([name, text]) => [h("dt", { className: "faint" }, name), h("dd", {}, text)]));
  main.append(h("section", {}, h("h2", {}, "Record"), about));
}

async function showFleet(main, signal) {
  const list = h("div", {}, "Loading…");
  main.replaceChildren(title("Fleet"), list);
  await keep(signal, () => operate("get_fleet", {}, signal), ({ projects, hosts }) => {
    list.replaceChildren(...projects.map((one) => h("section", {}, h("h2", {}, component(one.project)),
      h("p", {}, `Live on ${one.live} of ${one.expected} hosts. `, one.rollout ? `Rollout: ${one.rollout}. ` : "", one.reason ?? "",
        one.published_at ? ["Published ", when(one.published_at), one.user ? ` by ${one.user}` : "", one.message ? `: ${one.message}` : ""] : ""),
      table(`Hosts of ${one.project}`, ["Host", "State", "Generation", "Phase", "Why"], one.hosts.map((host) => [
        host.host, status(host.state ?? "absent"), host.generation ?? "", host.phase ?? "", host.message ?? ""])))),
    h("section", {}, h("h2", {}, "Hosts"), table("Hosts", ["Host", "State", "Version", "Address"], hosts.map((host) => [
      host.host, host.alive ? h("span", { className: "status good" }, "on") : h("span", { className: "status bad" }, "off"),
      host.version ?? "", [host.url, host.site].filter(Boolean).join(" · ")]))));
  });
}

// ---- Signing in, and which view is shown ---------------------------------------------------------------------------------

let control = new AbortController();

function signOut(why) {
  token = null;
  sessionStorage.removeItem(KEPT);
  show(why);
}

async function signIn(text, main) {
  token = text.trim();
  try {
    await askWho();
    sessionStorage.setItem(KEPT, token);
    show();
  } catch (error) {
    token = null;
    if (main.isConnected) trouble(error instanceof Refused ? error.message : `The server cannot be reached: ${error.message}`);
  }
}

function showSignIn(main, why) {
  const field = h("input", { type: "password", name: "token", autocomplete: "off", required: true, id: "token", size: 40 });
  const form = h("form", {}, h("p", {}, h("label", { htmlFor: "token" }, "Access token"), h("br"), field),
    h("button", { className: "strong" }, "Sign in"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    signIn(field.value, main);
  });
  main.replaceChildren(title("Sign in"), why ? h("p", { role: "alert", className: "warn" }, why) : "", h("section", {}, form,
    h("p", { className: "faint" }, "On the host, ", h("code", {}, "gangplank ui"), " prints an address that signs you in; ",
      h("code", {}, "gangplank token add NAME"), " makes a token. It is kept in this tab alone.")));
  field.focus();
}

/** Asks who signs in here, and whether this server belongs to a fleet. */
async function askWho() {
  const known = await operate("system_information", {});
  me = known.caller;
  peers = known.peers ?? 0;
  $("fleet").hidden = !known.fleet;
}

/** A code of `gangplank ui` in the fragment becomes a session, once. It leaves the address at once. */
async function redeem(code) {
  window.history.replaceState(null, "", "#/");
  const { token: session } = await operate("create_page_session", { code });
  [token, me] = [session, null];
  sessionStorage.setItem(KEPT, session);
}

async function show(why) {
  control.abort();
  const mine = (control = new AbortController());
  const main = $("main");
  trouble(null);
  try {
    const code = /^#code=([0-9a-f]+)$/.exec(location.hash)?.[1];
    if (code) {
      token = null;
      await redeem(code);
    }
    if (token && (code || me?.name === null)) await askWho();
  } catch (error) {
    if (error instanceof Refused) why = why ?? error.message;
    else if (token) {
      trouble(`The server cannot be reached: ${error.message}. The page tries again.`);
      setTimeout(() => control === mine && show(), 2000);
      return;
    }
  }
  if (control !== mine) return;
  $("nav").hidden = $("sign-out").hidden = !token;
  $("who").textContent = token ? `${me.name ?? "this machine"} · ${me.role}` : "";
  if (!token) return showSignIn(main, why);
  const [, kind, name] = location.hash.split("/");
  const view = { c: showComponent, d: showDeployment, history: showHistory, fleet: showFleet }[kind] ?? showComponents;
  for (const link of $("nav").children) {
    const here = link.hash === (location.hash || "#/");
    here ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  const drawn = view(main, mine.signal, name && decodeURIComponent(name));
  const heading = main.querySelector("h1");
  document.title = `${heading.textContent} – gangplank`;
  heading.focus({ preventScroll: true });
  window.scrollTo(0, 0);
  try {
    await drawn;
  } catch (error) {
    if (!mine.signal.aborted) trouble(error.message);
  }
}

$("sign-out").addEventListener("click", async () => {
  await operate("end_page_sessions", {}).catch(() => {});
  signOut();
});
window.addEventListener("hashchange", () => show());
show();

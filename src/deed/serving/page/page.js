// The page of `deed serve`: a file and a question to an answer that comes token by token, each in the color of its depth.
"use strict";

const $ = (id) => document.getElementById(id);
const ANCHORS = [[0x1f, 0xa2, 0x8d], [0x4f, 0x83, 0xdb], [0x96, 0x68, 0xd9], [0xd6, 0x5c, 0x97], [0xe2, 0x6d, 0x46]];
const TASKS = { document: "read the page", vqa: "answer about the picture", caption: "describe the picture", refer: "find what is described" };
const OF_PIPELINE = { "document-qa": "document", vqa: "vqa", caption: "caption", refer: "refer" };
const FULL_DEPTH = 2;
const BY_PAGE = ["documents", "paperwork"]; // without a name, the server takes the one of these that suits the page

let models = [], file = null, running = null, ownThreshold = null;

// -- small helpers ------------------------------------------------------------------------------------------------

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function depthColor(depth, layers) {
  const at = ((depth - 1) / Math.max(1, layers - 1)) * (ANCHORS.length - 1);
  const low = Math.min(Math.floor(at), ANCHORS.length - 2);
  const mix = ANCHORS[low].map((a, i) => Math.round(a + (ANCHORS[low + 1][i] - a) * (at - low)));
  return `rgb(${mix.join(" ")})`;
}

const seconds = (s) => (s < 1 ? `${Math.round(1000 * s)} ms` : `${s.toFixed(2)} s`);
const percent = (x) => `${Math.round(100 * x)} %`;

function headers() {
  const key = $("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function fail(message) {
  $("error").textContent = message;
  $("error").hidden = false;
}

async function explain(response) {
  let message = `the server answered ${response.status}`;
  try {
    const told = (await response.json()).error;
    message = typeof told === "string" ? told : told.message;
  } catch { /* no JSON: the number has to do */ }
  if (response.status === 401) {
    $("key-box").open = true;
    $("key").focus();
  }
  if (response.status === 429) message += ` (try again in ${response.headers.get("Retry-After") || "some"} s)`;
  return message;
}

// Server-sent events of a POST, which EventSource cannot read.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    kept += value;
    const parts = kept.split("\n\n");
    kept = parts.pop();
    for (const part of parts) {
      let name = "token", data = "";
      for (const line of part.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        if (line.startsWith("data: ")) data += line.slice(6);
      }
      if (data) yield { name, data: JSON.parse(data) };
    }
  }
}

// -- models, tasks, threshold -------------------------------------------------------------------------------------

async function loadModels() {
  let response;
  try {
    response = await fetch("/models", { headers: headers() });
  } catch {
    return fail("the server does not answer");
  }
  if (!response.ok) return fail(await explain(response));
  models = (await response.json()).data;
  if (!models.length) {
    $("status").textContent = "The models are being loaded …";
    setTimeout(loadModels, 1000);
    return;
  }
  $("error").hidden = true;
  const options = models.map((model) => element("option", model.id));
  if (BY_PAGE.every((name) => models.some((model) => model.id === name))) {
    const option = element("option", "chosen by the page");
    option.value = "";
    options.unshift(option);
  }
  $("model").replaceChildren(...options);
  chooseModel();
}

// The model that is asked; of two between which the page chooses, the one that stands for both.
const chosen = () => models.find((m) => m.id === ($("model").value || BY_PAGE[0]));

const kindOf = (f) => (!f ? "text" : f.type.startsWith("audio/") || f.type.startsWith("video/") ? "audio"
  : f.type === "application/pdf" || /\.pdf(\.gz)?$/i.test(f.name) ? "pdf" : "image");

function fits(model, kind) {
  const can = (task) => model.tasks.includes(task);
  if (kind === "audio") return can("transcribe");
  if (kind === "text") return can("text2text");
  return can("document-qa") || can("vqa") || can("caption");
}

function chooseModel() {
  const kind = kindOf(file), current = chosen();
  const better = models.find((m) => fits(m, kind));
  if (better && (!current || !fits(current, kind))) {
    const byPage = BY_PAGE.includes(better.id) && $("model").options[0].value === "";
    $("model").value = byPage ? "" : better.id;
  }
  showModel();
}

function showModel() {
  const model = chosen();
  if (!model) return;
  const tasks = model.tasks.map((task) => OF_PIPELINE[task]).filter(Boolean);
  const before = $("task").value;
  $("task").replaceChildren(...tasks.map((task) => {
    const option = element("option", TASKS[task]);
    option.value = task;
    return option;
  }));
  if (tasks.includes(before)) $("task").value = before;
  $("task-row").hidden = tasks.length < 2;
  ownThreshold = typeof model.threshold === "number" ? model.threshold : null;
  resetThreshold();
  showTask();
}

function showTask() {
  const model = chosen(), kind = kindOf(file);
  const isText = model && model.tasks.includes("text2text");
  const caption = kind === "image" && $("task").value === "caption" && !$("task-row").hidden;
  $("question").disabled = kind === "audio" || caption;
  $("question-label").textContent = isText ? "Text" : $("task").value === "refer" ? "What to find" : "Question";
  $("question").placeholder = isText ? "a text for the model" : $("task").value === "refer" ? "the red apple left of the dog"
    : model && model.type === "latr" ? "what is the total?" : "how many apples are there?";
  $("ask").textContent = kind === "audio" ? "Transcribe" : caption ? "Describe" : isText ? "Generate" : "Ask";
  $("page-row").hidden = kind !== "pdf";
}

function resetThreshold() {
  $("threshold").dataset.own = "yes";
  $("threshold").value = ownThreshold === null ? 1.01 : Math.min(1.01, ownThreshold);
  showThreshold();
}

function threshold() {
  if ($("threshold").dataset.own === "yes") return null;
  const value = Number($("threshold").value);
  return value > 1 ? FULL_DEPTH : value;
}

function showThreshold() {
  const value = Number($("threshold").value), own = $("threshold").dataset.own === "yes";
  const said = own && ownThreshold === null ? "one for each exit" : value > 1 ? "full depth" : own ? String(ownThreshold) : value.toFixed(2);
  const text = own ? ($("model").value ? `${said} (the model's own)` : "the model's own") : said;
  $("threshold-text").textContent = text;
  $("threshold").setAttribute("aria-valuetext", text);
  $("reset").disabled = own;
}

// -- the file -----------------------------------------------------------------------------------------------------

function takeFile(given) {
  file = given || null;
  clearResult();
  const kind = kindOf(file);
  $("file-name").textContent = file ? file.name : "";
  $("remove").hidden = !file;
  $("drop").classList.toggle("small", Boolean(file));
  $("picture").src && URL.revokeObjectURL($("picture").src);
  $("figure").hidden = !file;
  $("sheet").hidden = kind !== "image";
  $("sound").hidden = kind !== "audio";
  $("figure-note").textContent = kind === "pdf" ? "The page is shown when it has been read." : "";
  if (kind === "image") $("picture").src = URL.createObjectURL(file);
  if (kind === "audio") $("sound").src = URL.createObjectURL(file);
  $("page").value = 1;
  chooseModel();
}

// -- asking -------------------------------------------------------------------------------------------------------

function clearResult() {
  for (const id of ["answer", "verdict", "numbers", "stairs", "legend", "notes", "boxes"]) $(id).replaceChildren();
  for (const id of ["fields", "tokens", "versus"]) $(id).tBodies[0].replaceChildren();
  for (const id of ["fields", "versus", "result", "error"]) $(id).hidden = true;
  $("status").textContent = "";
}

function bodyOf(fullDepth) {
  const body = new FormData(), kind = kindOf(file);
  const wanted = fullDepth ? FULL_DEPTH : threshold();
  if ($("model").value) body.set("model", $("model").value);
  if (wanted !== null) body.set("threshold", wanted);
  if (kind === "audio") body.set("audio", file);
  else if (kind === "text") body.set("text", $("question").value);
  else {
    body.set("file", file);
    if (!$("question").disabled) body.set("question", $("question").value);
    body.set("task", $("task").value);
    if (kind === "pdf") body.set("page", $("page").value);
    body.set("stream", "true");
    if (!fullDepth) body.set("preview", "true");
  }
  return body;
}

const address = () => (["audio", "text"].includes(kindOf(file)) ? "/generate/stream" : "/ask");

async function ask(event) {
  event.preventDefault();
  if (running) return;
  if (!file && !chosen()?.tasks.includes("text2text")) return fail("Choose a picture, a PDF or a sound first.");
  if (!$("question").disabled && !$("question").value.trim()) {
    $("question").focus();
    return fail("Type a question first.");
  }
  clearResult();
  $("result").hidden = false;
  running = new AbortController();
  $("ask").hidden = true;
  $("stop").hidden = false;
  try {
    const found = await run(false);
    if (found && $("compare").checked && threshold() !== FULL_DEPTH) {
      $("status").textContent = "Once more at full depth, to compare …";
      versus(found, await run(true));
    }
    $("status").textContent = "Done.";
  } catch (error) {
    if (error.name === "AbortError") $("status").textContent = "Stopped.";
    else {
      $("status").textContent = "";
      fail(error.message);
    }
  } finally {
    running = null;
    $("ask").hidden = false;
    $("stop").hidden = true;
  }
}

// One request; shown while it runs, but for the one at full depth, which is only compared.
async function run(fullDepth) {
  if (!fullDepth) $("status").textContent = "Reading …";
  const response = await fetch(address(), { method: "POST", body: bodyOf(fullDepth), headers: headers(), signal: running.signal });
  if (!response.ok) throw new Error(await explain(response));
  let layers = chosen().layers;
  const tokens = [];
  if (!fullDepth) legend(layers);
  for await (const { name, data } of events(response)) {
    if (name === "error") throw new Error(data.error.message || data.error);
    if (name === "page") {
      layers = data.layers;
      if (!fullDepth) {
        legend(layers);
        showPage(data);
      }
    }
    if (name === "token") {
      tokens.push(data);
      if (!fullDepth) {
        $("status").textContent = "Answering …";
        showToken(data, layers);
      }
    }
    if (name === "done") {
      if (!fullDepth) showAnswer(data, tokens);
      return data;
    }
  }
  throw new Error("the connection was closed before the answer was complete");
}

function showPage(page) {
  if (!page.image) return;
  $("sheet").hidden = false;
  $("picture").src = page.image;
  const turned = page.rotation ? `, turned by ${page.rotation} degrees` : "";
  $("figure-note").textContent = page.pages > 1 ? `Page ${page.page} of ${page.pages}${turned}` : turned && `The page was${turned.slice(1)}`;
  $("page").max = page.pages;
}

function showToken(token, layers) {
  const color = depthColor(token.depth, layers);
  const end = token.text === "" || token.text === "</s>";
  if (!end || $("answer").childElementCount) {
    const span = element("span", end ? "end" : token.text, end ? "token end" : "token");
    span.style.setProperty("--depth", color);
    span.title = `layer ${token.depth} of ${layers}` + (token.confidence === null ? "" : `, confidence ${token.confidence.toFixed(3)}`);
    if (end) $("answer").querySelector(".end")?.remove();
    $("answer").append(span);
  }
  const stair = element("div", undefined, "stair");
  stair.style.setProperty("--depth", color);
  stair.style.height = percent(token.depth / layers).replace(" ", "");
  $("stairs").append(stair);
  const row = $("tokens").tBodies[0].insertRow();
  for (const text of [token.text || "(none)", token.depth, token.confidence === null ? "" : token.confidence.toFixed(3)]) row.insertCell().textContent = text;
}

function showAnswer(answer, tokens) {
  if (!tokens.length) $("answer").textContent = answer.text || "(nothing)";
  else if (!answer.text) $("answer").prepend(element("span", "(an empty answer) ", "muted"));
  const verdict = $("verdict");
  if ("sure" in answer) {
    const known = answer.confidence !== null && answer.confidence !== undefined;
    const said = !known ? "confidence not known with these settings" : `${answer.sure ? "sure" : "not sure"} (${percent(answer.confidence)})`;
    verdict.append(element("span", said, `badge ${!known ? "unknown" : answer.sure ? "sure" : "unsure"}`));
  }
  for (const [key, value] of Object.entries(answer.fields || {})) {
    const row = $("fields").tBodies[0].insertRow();
    const head = element("th", key);
    head.scope = "row";
    row.append(head);
    row.insertCell().textContent = typeof value === "string" ? value : JSON.stringify(value);
    $("fields").hidden = false;
  }
  const numbers = [];
  if (answer.mean_depth !== null) {
    numbers.push([`${answer.mean_depth.toFixed(2)} of ${answer.layers}`, "mean depth"], [percent(answer.saving), "of the decoder's layers saved"]);
  }
  if (tokens.length) numbers.push([String(tokens.length), "tokens"]);
  numbers.push([seconds(answer.times.total), "encoder and decoder"]);
  $("numbers").replaceChildren(...numbers.map(([value, what]) => {
    const box = element("div", undefined, "number");
    box.append(element("b", value), element("span", what));
    return box;
  }));
  $("stairs").hidden = $("legend").hidden = !tokens.length;
  $("tokens-box").hidden = !tokens.length;
  $("stairs").setAttribute("aria-label", `Layers of the tokens: ${tokens.map((t) => t.depth).join(", ")}`);
  $("notes").replaceChildren(...(answer.notes || []).map((note) => element("li", note)));
  for (const found of answer.evidence || []) {
    for (const [x0, y0, x1, y1] of found.boxes) {
      const box = element("div", undefined, "box");
      box.title = found.key ? `${found.key}: ${found.text}` : found.text;
      Object.assign(box.style, { left: `${100 * x0}%`, top: `${100 * y0}%`, width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%` });
      $("boxes").append(box);
    }
  }
}

function legend(layers) {
  $("legend").replaceChildren(...Array.from({ length: layers }, (_, i) => {
    const item = element("span"), swatch = element("i");
    swatch.style.setProperty("--depth", depthColor(i + 1, layers));
    item.append(swatch, `layer ${i + 1}`);
    return item;
  }));
}

function versus(early, full) {
  const layersOf = (answer) => answer.tokens.reduce((sum, token) => sum + token.depth, 0);
  const decoding = (answer) => Math.max(0, answer.times.total - answer.times.first_token);
  for (const [name, answer] of [["early exit", early], ["full depth", full]]) {
    const row = $("versus").tBodies[0].insertRow(), head = element("th", name);
    head.scope = "row";
    row.append(head);
    const same = answer === early ? "as above" : answer.text === early.text ? "the same" : answer.text;
    for (const text of [answer.tokens.length ? layersOf(answer) : "", seconds(decoding(answer)), same || "(empty)"]) row.insertCell().textContent = text;
  }
  $("versus").hidden = false;
}

// -- events -------------------------------------------------------------------------------------------------------

$("form").addEventListener("submit", ask);
$("stop").addEventListener("click", () => running?.abort());
$("file").addEventListener("change", () => $("file").files[0] && takeFile($("file").files[0]));
$("remove").addEventListener("click", () => { $("file").value = ""; takeFile(null); $("file").focus(); });
$("sample").addEventListener("click", async () => {
  $("ask").disabled = true;  // until the file is there, a question would go without it
  try {
    const response = await fetch("/page/invoice.pdf");
    takeFile(new File([await response.blob()], "invoice.pdf", { type: "application/pdf" }));
  } finally {
    $("ask").disabled = false;
  }
  if (!$("question").value) $("question").value = "what is the total?";
  $("question").focus();
});
$("model").addEventListener("change", showModel);
$("task").addEventListener("change", showTask);
$("threshold").addEventListener("input", () => { $("threshold").dataset.own = "no"; showThreshold(); });
$("reset").addEventListener("click", resetThreshold);
$("key").addEventListener("change", () => { sessionStorage.setItem("deed-key", $("key").value); loadModels(); });
document.addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) takeFile(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => event.clipboardData.files[0] && takeFile(event.clipboardData.files[0]));
$("key").value = sessionStorage.getItem("deed-key") || "";
loadModels();

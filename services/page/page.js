// The shop front. It talks to the service as any shop would: every click is a real event, every list a real request.

const $ = (id) => document.getElementById(id);
const view = $("view");
const TRAIL = 12;
const SCENARIOS = ["home", "product", "cart", "email"]; // the built-in ones: a shop's key is told no others
const MONEY = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });

// crypto.randomUUID exists over https and on localhost only.
function anyone() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const me = Object.assign(
  { user: "", session: anyone(), key: "", cart: [], trail: [], scenario: "home", diversity: -1, explain: true, compare: "" },
  JSON.parse(sessionStorage.getItem("me") || "{}"),
);
let shown = 0; // the newest view wins when answers come late
let viewed = ""; // who looks at which product: controls show it again, and that is no second view

// Building the page: text only ever goes in as text.
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value; // as an attribute the policy would refuse it
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

function keep() {
  sessionStorage.setItem("me", JSON.stringify(me));
  $("cart-count").textContent = me.cart.length;
  $("who").textContent = me.user ? `You are shopper ${me.user}.` : "You are somebody new: only this tab's session is known.";
  $("trail").replaceChildren(...me.trail.map((line) => h("li", {}, line)));
  $("diversity-said").textContent = me.diversity < 0 ? "as the rules say" : (me.diversity / 10).toFixed(1);
}

async function call(method, path, body) {
  const began = performance.now();
  const headers = { "Content-Type": "application/json", ...(me.key ? { "X-API-Key": me.key } : {}) };
  const response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) {
    $("key-section").hidden = $("key-section").hidden && response.status !== 401 && response.status !== 403;
    throw new Error(answer.error ? answer.error.message : `${path}: ${response.status}`);
  }
  return { ...answer, ms: performance.now() - began };
}

const shopper = () => ({ session_id: me.session, ...(me.user ? { user_id: me.user } : {}) });

function tell(answer) {
  const lines = { release: answer.release, snapshot: answer.snapshot, rung: answer.rung, request: answer.request_id, "round trip": `${answer.ms.toFixed(0)} ms` };
  if (answer.skipped && answer.skipped.length) lines.skipped = answer.skipped.join(", ");
  $("answer").replaceChildren(...Object.entries(lines).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}

async function did(kind, item, requestId) {
  await call("POST", "/v1/events", { events: [{ ...shopper(), item_id: item.item_id, event_type: kind, ...(requestId ? { request_id: requestId } : {}) }] });
  me.trail = [`${kind}: ${item.title || item.item_id}`, ...me.trail].slice(0, TRAIL);
  keep();
}

async function looked(item) {
  const seen = JSON.stringify([shopper(), item.item_id]);
  if (seen === viewed) return;
  viewed = seen;
  try {
    await did("view", item, null);
  } catch (error) {
    viewed = ""; // nothing was taken
    throw error;
  }
}

// Pieces
function colour(text) {
  let number = 7;
  for (const letter of text) number = (number * 31 + letter.codePointAt(0)) % 360;
  return `hsl(${number} 38% 44%)`;
}

function tile(item) {
  const words = (item.title || item.item_id).split(/\s+/).filter(Boolean);
  const letters = words.slice(0, 2).map((word) => [...word][0]).join("").toUpperCase();
  return h("div", { class: "tile", style: `background:${colour((item.category || item.item_id).split(">")[0].trim())}`, "aria-hidden": "true" }, letters);
}

const price = (value) => (value === null || value === undefined ? "" : h("span", { class: "price" }, MONEY.format(value)));

function bars(contributions) {
  const parts = Object.entries(contributions).filter(([name]) => name !== "bias").sort((one, other) => Math.abs(other[1]) - Math.abs(one[1]));
  const most = Math.max(...parts.map(([, value]) => Math.abs(value)), 1e-9);
  return h("details", {}, h("summary", {}, "What the score is made of"), h("div", { class: "bars" }, parts.flatMap(([name, value]) => [
    h("span", {}, name),
    h("span", { class: value < 0 ? "bar against" : "bar", style: `width:${(100 * Math.abs(value)) / most}%`, title: value.toFixed(4) }),
  ])));
}

function card(item, requestId) {
  const open = async (event) => {
    event.preventDefault();
    await attempt(() => did("click", item, requestId));
    location.hash = `#/item/${encodeURIComponent(item.item_id)}`;
  };
  const link = { href: `#/item/${encodeURIComponent(item.item_id)}`, onclick: open };
  return h("article", { class: "card", "data-item": item.item_id },
    h("a", link, tile(item)),
    h("div", { class: "body" },
      h("a", { class: "title", ...link }, item.title || item.item_id),
      item.promoted ? h("span", { class: "chip" }, "promoted") : "",
      item.brand ? h("span", { class: "quiet" }, item.brand) : "",
      item.goes_with ? h("span", { class: "quiet" }, `${item.lift.toFixed(1)} times as often as by chance`) : "",
      item.reason ? h("span", { class: "why" }, item.reason) : "",
      me.explain && item.sources && item.sources.length ? h("span", { class: "sources" }, item.sources.map((source) => h("span", { class: "chip" }, source))) : "",
      me.explain && item.contributions ? bars(item.contributions) : "",
      price(item.price)));
}

const cards = (answer) => (answer.items.length ? h("div", { class: "cards" }, answer.items.map((item) => card(item, answer.request_id))) : h("p", { class: "quiet" }, "Nothing to show."));

async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    view.prepend(h("p", { class: "error", role: "alert" }, error.message));
    return null;
  }
}

async function show(make) {
  const mine = ++shown;
  try {
    const made = await make();
    if (mine === shown) view.replaceChildren(...made.flat().filter(Boolean));
  } catch (error) {
    if (mine === shown) view.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
  }
}

// Lists
function wish(scenario, more = {}) {
  return { ...shopper(), scenario, k: 12, explain: me.explain, ...(me.diversity >= 0 ? { diversity: me.diversity / 10 } : {}), ...more };
}

async function listed(title, scenario, more) {
  const asked = wish(scenario, more);
  const [answer, other] = await Promise.all([
    call("POST", "/v1/recommend", asked),
    me.compare ? call("POST", "/v1/compare", { ...asked, release: me.compare }) : null,
  ]);
  tell(answer);
  if (!other) return h("section", { id: "list" }, h("h2", {}, title), cards(answer));
  return h("section", { id: "list" }, h("h2", {}, title), h("div", { class: "sides" },
    h("div", {}, h("h2", {}, `Release ${answer.release}, as served`), cards(answer)),
    h("div", { id: "other" }, h("h2", {}, `Release ${other.release}`), cards(other))));
}

const home = () => show(async () => [await listed("For you", me.scenario)]);

const product = (id) => show(async () => {
  const item = await call("GET", `/v1/items/${encodeURIComponent(id)}`);
  await looked(item);
  const [similar, together] = await Promise.all([
    call("POST", "/v1/similar", { ...shopper(), item_id: id, k: 6 }),
    call("POST", "/v1/bought_together", { ...shopper(), item_id: id, k: 6 }),
  ]);
  tell(similar);
  return [
    h("section", { class: "product" }, tile(item), h("div", {},
      h("h1", {}, item.title || item.item_id),
      h("p", { class: "quiet" }, [item.brand, item.category].filter(Boolean).join(" · ")),
      h("p", {}, item.description || ""),
      h("p", {}, price(item.price), item.available ? "" : " Not on sale now."),
      h("div", { class: "actions" },
        h("button", { class: "main", id: "add", onclick: () => attempt(() => toCart(item)) }, "Put into the cart"),
        h("button", { onclick: () => attempt(async () => { await did("dislike", item, null); location.hash = "#/"; }) }, "Not for me")))),
    h("section", { id: "similar" }, h("h2", {}, "Similar"), cards(similar)),
    h("section", { id: "together" }, h("h2", {}, "Bought together"), bundles(together), cards(together)),
    await listed("Also for you", "product", { item_id: id, k: 6 }),
  ];
});

function bundles(answer) {
  return (answer.bundles || []).map((bundle) => h("div", { class: "bundle" },
    bundle.item_ids.flatMap((id, place) => [place ? "+" : "", h("a", { href: `#/item/${encodeURIComponent(id)}` }, bundle.titles[place] || id)]),
    h("strong", {}, `together ${MONEY.format(bundle.price)}`)));
}

async function toCart(item) {
  await did("cart", item, null);
  if (!me.cart.some((held) => held.item_id === item.item_id)) me.cart = [...me.cart, { item_id: item.item_id, title: item.title, price: item.price, category: item.category }];
  keep();
}

const cart = () => show(async () => {
  const ids = me.cart.map((item) => item.item_id);
  const sum = me.cart.reduce((total, item) => total + (item.price || 0), 0);
  const held = h("section", {}, h("h1", {}, "Cart"),
    me.cart.length ? h("ul", {}, me.cart.map((item) => h("li", {}, item.title || item.item_id, " ", price(item.price)))) : h("p", { class: "quiet" }, "Nothing in it yet."),
    me.cart.length ? h("div", { class: "actions" }, h("strong", {}, MONEY.format(sum)), h("button", { class: "main", id: "buy", onclick: () => attempt(buy) }, "Buy")) : "");
  if (!ids.length) return [held, await listed("For you", "home")];
  const together = await call("POST", "/v1/bought_together", { ...shopper(), cart: ids, k: 6 });
  return [held, h("section", { id: "together" }, h("h2", {}, "Goes with your cart"), bundles(together), cards(together)),
    await listed("Also for you", "cart", { cart: ids, k: 6 })];
});

async function buy() {
  for (const item of me.cart) await did("purchase", item, null);
  me.cart = [];
  keep();
  location.hash = "#/";
}

const search = (query, chosen = {}) => show(async () => {
  const filters = Object.fromEntries(Object.entries({ categories: chosen.category, brands: chosen.brand }).filter(([, value]) => value).map(([name, value]) => [name, [value]]));
  const answer = await call("POST", "/v1/search", { ...shopper(), query, k: 24, filters });
  tell(answer);
  const facet = (kind, found) => found.slice(0, 8).map((one) => h("button", {
    "aria-pressed": String(chosen[kind] === one.name), onclick: () => search(query, { ...chosen, [kind]: chosen[kind] === one.name ? undefined : one.name }),
  }, `${one.name} (${one.count})`));
  return [h("section", { id: "list" }, h("h1", {}, `“${query}”`), h("p", { class: "quiet" }, `${answer.total} found`),
    answer.message ? h("p", { class: "note", id: "relaxed" }, answer.message) : "",
    h("div", { class: "facets" }, facet("category", answer.facets.categories), facet("brand", answer.facets.brands)), cards(answer))];
});

function route() {
  const [, place, ...rest] = location.hash.split("/");
  const value = decodeURIComponent(rest.join("/"));
  window.scrollTo(0, 0);
  if (place !== "item") viewed = "";
  if (place === "item") product(value);
  else if (place === "search") search(value);
  else if (place === "cart") cart();
  else home();
}

// Controls
function on(id, kind, work) {
  $(id).addEventListener(kind, (event) => {
    event.preventDefault();
    work();
    keep();
    route();
  });
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("query").value.trim()) location.hash = `#/search/${encodeURIComponent($("query").value.trim())}`;
});
on("shopper", "submit", () => { me.user = $("user").value.trim(); me.trail = []; });
on("anonymous", "click", () => { Object.assign(me, { user: "", session: anyone(), trail: [], cart: [] }); $("user").value = ""; });
on("scenario", "change", () => { me.scenario = $("scenario").value; });
on("diversity", "input", () => { me.diversity = Number($("diversity").value); });
on("explain", "change", () => { me.explain = $("explain").checked; });
on("compare", "change", () => { me.compare = $("compare").value; });
on("key-form", "submit", () => { me.key = $("key").value.trim(); choices(); });
addEventListener("hashchange", route);

async function choices() {
  const served = await call("GET", "/v1/release").catch(() => ({}));
  $("scenario").replaceChildren(...(served.scenarios || SCENARIOS).map((name) => h("option", { selected: name === me.scenario }, name)));
  if (served.scenarios) me.scenario = $("scenario").value; // the rules may have lost the one that was chosen
  const { releases } = await call("GET", "/v1/releases").catch(() => ({ releases: [] }));
  $("compare").replaceChildren(h("option", { value: "" }, "nothing"),
    ...releases.map((one) => h("option", { value: one.version, selected: one.version === me.compare }, `release ${one.version} (${one.status})`)));
}

$("user").value = me.user;
$("diversity").value = me.diversity;
$("explain").checked = me.explain;
keep();
choices().then(route);

// The page: takes a snapshot a second from `/v1/stream` and shows it. It decides nothing and changes nothing; texts of others become text,
// never markup.

import { drawMap, linkWords } from "/map.js";
import { fill } from "/tables.js";
import { bytes, clock, count, milliseconds, moment, percent, rate, span } from "/units.js";

const AGAIN_MS = 3000;
const LAG_WARN_SECONDS = 10;
const CERTIFICATE_WARN_SECONDS = 14 * 86400;
const $ = (id) => document.getElementById(id);

let snapshot = null;
let generation = null;
let states = new Map();

function write(id, text, className) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
  if (className !== undefined) element.className = className;
}

const LINKS = [
  { title: "Link", text: (line) => line.name },
  { title: "State", text: (line) => line.state, state: (line) => line.state },
  { title: "RTT", text: (line) => milliseconds(line.rtt), number: true },
  { title: "Sends", text: (line) => (line.sent === null ? "–" : `${bytes(line.sent)}/s`), number: true },
  { title: "Receives", text: (line) => (line.received === null ? "–" : `${bytes(line.received)}/s`), number: true },
  { title: "Loss", text: (line) => percent(line.loss), number: true },
  { title: "Flows", text: (line) => line.flows ?? "–", number: true },
  { title: "Why", text: (line) => line.why, long: true },
];

const ROUTES = [
  { title: "Route", text: (route) => route.name },
  { title: "From", text: (route) => route.from },
  { title: "To", text: (route) => route.to.join(", ") },
  { title: "Guarantee", text: (route) => route.guarantee },
  { title: "Flows here", text: (route) => route.flows, number: true },
  { title: "Events/s", text: (route) => rate(route.rate), number: true },
  { title: "Lag", text: (route) => count(route.lag_events), number: true, warn: (route) => route.lag_seconds > LAG_WARN_SECONDS },
  { title: "Trouble", text: (route) => route.error, long: true },
];

const PHASES = { streaming: "up", waiting: "down", faulted: "down", stalled: "down", opening: "partial", stopped: "unknown" };
const phase = (flow) => (flow.stalled ? "stalled" : flow.phase);
const FLOWS = [
  { title: "Route", text: (flow) => flow.route },
  { title: "End", text: (flow) => flow.end },
  { title: "From", text: (flow) => `${flow.from}/${flow.shard}` },
  { title: "To", text: (flow) => (flow.hop && flow.hop !== flow.to.split("/")[0] ? `${flow.to} over ${flow.hop}` : flow.to) },
  { title: "State", text: phase, state: (flow) => PHASES[phase(flow)] },
  { title: "Events/s", text: (flow) => rate(flow.rate), number: true },
  { title: "Events", text: (flow) => count(flow.end === "out" ? flow.sent_events : flow.delivered_events), number: true },
  { title: "Durable", text: (flow) => count(flow.durable), number: true },
  { title: "Lag", text: (flow) => count(flow.lag_events), number: true, warn: lags },
  { title: "Behind", text: (flow) => (flow.lag_events > 0 ? span(flow.lag_seconds) : "–"), number: true, warn: lags },
  { title: "Audit", text: (flow) => (flow.audit_balanced ? "balanced" : "off"), warn: (flow) => !flow.audit_balanced },
  { title: "Fault", text: (flow) => flow.fault, long: true },
];

const BROKERS = [
  { title: "Broker", text: (broker) => broker.name },
  { title: "Kind", text: (broker) => broker.kind },
  { title: "State", text: (broker) => broker.state, state: (broker) => ({ up: "up", down: "down" })[broker.state] ?? "unknown" },
  { title: "Why", text: (broker) => broker.error, long: true },
];

const PARKED = [
  { title: "Parked (UTC)", text: (event) => moment(event.parked_ms) },
  { title: "Route", text: (event) => event.route },
  { title: "Topic", text: (event) => event.topic },
  { title: "Offset", text: (event) => event.offset, number: true },
  { title: "To", text: (event) => event.to.join("/") },
  { title: "Reason", text: (event) => `${event.kind}: ${event.reason}`, long: true },
];

function lags(flow) {
  return flow.lag_events > 0 && flow.lag_seconds > LAG_WARN_SECONDS;
}

// One line for each router that is dialled, and one for each link that is not seen from here.
function linkLines({ map, links }) {
  const dialled = links.map((link) => ({
    name: link.region + (link.router ? `/${link.router}` : ` ${link.address}`), state: link.up ? "up" : "down",
    rtt: link.up ? link.rtt_ms : null, sent: link.sent_rate, received: link.received_rate, loss: link.loss,
    flows: link.flows, why: link.up ? "" : (link.error ?? "not reached yet"), key: `${link.region} ${link.address}`,
  }));
  const silent = map.filter((link) => link.state === "unknown" || link.reached[1] === 0).map((link) => ({
    name: link.between.join(" – "), state: link.state, rtt: null, sent: null, received: null, loss: null,
    flows: null, why: link.state === "unknown" ? "" : link.reason, key: link.between.join(" "),
  }));
  return [...dialled, ...silent];
}

function showFigures({ mesh, map, flows, flows_total, routes, brokers, parked }) {
  const own = map.filter((link) => link.state !== "unknown");
  const up = own.filter((link) => link.state === "up").length;
  write("figure-links", `${up} of ${own.length} up`, up < own.length ? "bad" : "");
  const moving = flows.filter((flow) => flow.phase === "streaming").length + flows_total - flows.length;
  write("figure-flows", `${count(moving)} of ${count(flows_total)} streaming`, moving < flows_total ? "bad" : "");
  const lag = routes.reduce((sum, route) => sum + (route.lag_events ?? 0), 0);
  write("figure-lag", `${count(lag)} events`, routes.some((route) => route.lag_seconds > LAG_WARN_SECONDS) ? "warn" : "");
  const reached = brokers.filter((broker) => broker.state === "up").length;
  write("figure-brokers", `${reached} of ${brokers.length} up`, reached < brokers.length ? "bad" : "");
  write("figure-parked", count(parked.total), parked.total > 0 ? "warn" : "");
  const share = mesh.memory_used_bytes / mesh.memory_budget_bytes;
  write("figure-memory", `${Math.round(share * 100)} % of ${Math.round(mesh.memory_budget_bytes / 1048576)} MiB`, share > 0.9 ? "warn" : "");
  const left = mesh.certificate_expires - Date.now() / 1000;
  write("figure-certificate", left > 0 ? `${span(left)} left` : "expired", left < CERTIFICATE_WARN_SECONDS ? "bad" : "");
  write("figure-uptime", span(mesh.uptime_seconds));
  return own.length - up;
}

// Says what changed, for those who look and for those who listen.
function showNews({ map }) {
  const news = [];
  for (const link of map) {
    const name = link.between.join(" – ");
    const before = states.get(name);
    if (before !== undefined && before !== link.state) news.push(`${name} is ${linkWords(link)}`);
    states.set(name, link.state);
  }
  if (news.length > 0) write("news", `${clock(Date.now())} ${news.join("; ")}`);
}

function showFlows() {
  const wanted = $("filter").value.trim().toLowerCase();
  const words = (flow) => FLOWS.map((column) => column.text(flow) ?? "").join(" ").toLowerCase();
  const flows = snapshot.flows.filter((flow) => wanted === "" || words(flow).includes(wanted));
  const key = (flow) => `${flow.id} ${flow.end}`;
  fill($("flows"), FLOWS, flows, { key, trouble: (flow) => flow.phase === "faulted" || flow.stalled || flow.fault, none: wanted === "" ? "No flow is owned or applied here." : "No flow matches." });
  const [shown, held] = [flows.length, snapshot.flows.length];
  const cut = held < snapshot.flows_total ? `; ${count(snapshot.flows_total - held)} more that are well are not shown` : "";
  write("flows-note", shown < held || cut !== "" ? `${count(shown)} of ${count(held)} shown${cut}` : "");
}

function show() {
  const { mesh, links, sessions, refused, routes, brokers, parked } = snapshot;
  write("region", mesh.region);
  write("router", `${mesh.router} · mesh ${mesh.mesh}`);
  write("version", `Longhaul ${mesh.version}`);
  const down = showFigures(snapshot);
  document.title = `${down > 0 ? `${down} down · ` : ""}${mesh.region} · ${mesh.mesh} · Longhaul`;
  showNews(snapshot);
  drawMap($("map"), snapshot);
  fill($("links"), LINKS, linkLines(snapshot), { key: (line) => line.key, trouble: (line) => line.state === "down", none: "The mesh document has no links." });
  const dialling = sessions.map((session) => `${session.region}/${session.router} (${session.flows} ${session.flows === 1 ? "flow" : "flows"})`).sort();
  write("sessions", dialling.length > 0 ? `Dialled by ${dialling.join(", ")}` : links.length > 0 ? "Nobody dials this router." : "");
  $("refused").replaceChildren(...refused.slice(-3).map((one) => {
    const item = document.createElement("li");
    item.textContent = `${clock(one.at * 1000)} refused (${one.reason}): ${one.text}`;
    return item;
  }));
  fill($("routes"), ROUTES, routes, { key: (route) => route.name, trouble: (route) => route.error, none: "The mesh document has no routes." });
  showFlows();
  fill($("brokers"), BROKERS, brokers, { key: (broker) => broker.name, trouble: (broker) => broker.state === "down", none: "This region has no brokers." });
  fill($("parked"), PARKED, parked.newest, { key: (event) => event.id, none: parked.error ?? (parked.total === null ? "Asking the brokers …" : "Nothing is parked here.") });
  write("parked-note", parked.total > parked.newest.length ? `The newest ${parked.newest.length} of ${count(parked.total)}` : "");
  if (mesh.generation !== generation) showDocument(mesh.generation);
}

async function showDocument(wanted) {
  generation = wanted;
  try {
    const answer = await fetch("/v1/config");
    if (!answer.ok) throw new Error(answer.statusText);
    write("document", await answer.text());
    write("document-note", `The ${wanted === 1 ? "first" : `${wanted}th`} document taken up since the start; seen at ${clock(Date.now())}`);
  } catch {
    generation = null;
  }
}

function contact(live) {
  document.body.classList.toggle("stale", !live && snapshot !== null);
  if (live) write("contact", "live", "state up");
  else if (!$("contact").classList.contains("down")) write("contact", `no contact since ${clock(Date.now())}`, "state down");
}

function watch() {
  const source = new EventSource("/v1/stream");
  source.onmessage = (message) => {
    snapshot = JSON.parse(message.data);
    contact(true);
    show();
  };
  source.onerror = () => {
    contact(false);
    source.close();
    setTimeout(watch, AGAIN_MS);
  };
}

$("filter").addEventListener("input", () => snapshot && showFlows());
addEventListener("resize", () => snapshot && drawMap($("map"), snapshot));
watch();
